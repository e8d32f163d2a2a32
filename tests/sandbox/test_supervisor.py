"""What the supervisor reads off the processes of its box."""

import pytest

from openzaya.sandbox import supervisor


@pytest.mark.parametrize(
    ("threads", "made", "cpu_s", "starved_s"),
    [
        ([(1.0, 5.0)], 0, 1.0, 5.0),  # alone: whatever it waited, others had the processors
        ([(0.2, 2.6), (0.2, 2.5)], 0, 2.8, 0.0),  # its own box ran all the time
        ([(0.5, 6.0), (0.5, 1.0)], 0, 2.0, 4.5),  # the machine is full, and so is the box
        ([(0.5, 6.0)], 100, 0.5, 4.0),  # a hundred children may have run a tick each, unseen
        ([], 0, 1.0, 0.0),
    ],
)
def test_a_thread_is_starved_only_by_what_runs_outside_its_box(
    monkeypatch, threads, made, cpu_s, starved_s
):
    """Else a program could turn its time-out into a failure of ours, by waiting for itself."""
    files = {
        f"/proc/{pid}/task/{pid}/schedstat": f"{ran * 1e9:.0f} {waited * 1e9:.0f} 7\n".encode()
        for pid, (ran, waited) in enumerate(threads, start=2)
    }
    files["/proc/loadavg"] = b"0.5 0.4 0.3 2/99 %d\n" % made
    pids = [str(pid) for pid in range(1, 2 + len(threads))]
    folders = {"/proc": [*pids, "self"]} | {f"/proc/{pid}/task": [pid] for pid in pids}
    monkeypatch.setattr(supervisor, "read_file", files.__getitem__)
    monkeypatch.setattr(supervisor, "listing", folders.__getitem__)
    assert supervisor.starved_s(cpu_s) == pytest.approx(starved_s)
