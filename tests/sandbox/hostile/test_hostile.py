"""Every hostile program ends as it must, leaves no process, and changes nothing on the machine.

A new program is a new `Case` in one of the files here; a new backend is one line in BACKENDS.
Root's boxes run as a user of this test process alone, so every process of that user is a survivor.
"""

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox.hostile import compiled, files, kernel, memory, network, processes, streams
from sandbox.hostile.case import REFUSALS, Case

from openzaya.sandbox.bwrap import BwrapExecutor
from openzaya.sandbox.executor import Executor, Request, Status
from openzaya.sandbox.zygote import ZygoteExecutor

UID = 60706 + os.getpid() % 400
BACKENDS = {
    "bwrap": lambda: BwrapExecutor(uid=UID),
    "zygote": lambda: ZygoteExecutor(uid=UID),
}
CASES = [
    case
    for module in (processes, memory, files, network, kernel, streams, compiled)
    for case in module.CASES
]
CANARY = "/tmp/openzaya-canary-{}"
SETTINGS = ("kernel/core_pattern", "kernel/hostname", "kernel/domainname", "vm/overcommit_memory")

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture(scope="module", params=BACKENDS)
def executor(request) -> Iterator[Executor]:
    with BACKENDS[request.param]() as made:
        yield made


def box_processes() -> set[str]:
    """Return the processes of our boxes: root's by their user, others' by their program."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.geteuid() == 0:
                ours = (
                    path.stat().st_uid == UID or f"\nUid:\t{UID}" in (path / "status").read_text()
                )
            else:
                ours = b"bwrap\0" in (path / "cmdline").read_bytes()
                ours = ours and path.stat().st_uid == os.geteuid()
            if ours:
                found.add(path.name)
    return found


def machine() -> dict[str, object]:
    """Return what no program may change."""
    settings = [Path("/proc/sys", name) for name in SETTINGS]
    found: dict[str, object] = {str(path): path.read_text() for path in settings if path.exists()}
    found["mounts"] = Path("/proc/self/mountinfo").read_text()
    for kind in ("shm", "sem", "msg"):
        lines = Path("/proc/sysvipc", kind).read_text().splitlines()
        found[kind] = [line for line in lines if str(UID) in line.split()]
    folders = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev"))
    found["files"] = [path for folder in folders for path in folder.iterdir() if is_a_boxs(path)]
    return found


def is_a_boxs(path: Path) -> bool:
    """Say whether a file belongs to the user of our boxes."""
    try:
        return os.geteuid() == 0 and path.lstat().st_uid == UID
    except OSError:
        return False


@pytest.fixture(scope="module", autouse=True)
def untouched_machine(tmp_path_factory) -> Iterator[None]:
    """Compare the machine before and after all programs; a canary lies open to everybody."""
    canary = Path(CANARY.format(os.getpid()))
    canary.write_text("alive")
    canary.chmod(0o666)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0openzaya-hostile-listener-{os.getpid()}")
    listener.listen()
    before, clock = machine(), time.time() - time.monotonic()
    yield
    try:
        assert machine() == before
        assert abs(time.time() - time.monotonic() - clock) < 5
        assert canary.read_text() == "alive"
    finally:
        listener.close()
        canary.unlink()


def test_there_are_programs_enough_and_each_has_its_name():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_program_ends_as_it_must(case: Case, executor):
    if case.language == "cpp" and not Path("/usr/bin/g++").exists():
        pytest.skip("g++ is not installed")
    before = box_processes()
    began = time.monotonic()
    result = executor.run(case.request)
    took_s = time.monotonic() - began
    assert result.status in case.ends, result
    assert took_s < case.most_wall_s
    if result.status is not Status.COMPILE:  # a compiler has limits of its own
        assert result.cpu_s < case.limits.cpu_s + 2.5
    assert len(result.stdout) <= case.limits.output_bytes
    assert len(result.stderr) <= max(case.limits.output_bytes, 65536)
    if case.prints is not None:
        assert result.stdout == case.prints, result.stderr
    if case.refused:
        words = result.stdout.decode().split()
        assert words, result.stderr
        assert set(words) <= REFUSALS, result
    if case.code is not None:
        assert result.exit_code == case.code
    if case.signal is not None:
        assert (result.signal, result.exit_code) == (case.signal, None)
    assert dict(result.files) == case.fetched
    assert box_processes() <= before


def test_what_runs_is_seen_and_is_not_root(executor):
    """Else `no survivors` would prove nothing."""
    before = box_processes()
    sleeper = Request(source="import time\ntime.sleep(1.5)\nprint('slept')")
    results = []
    thread = threading.Thread(target=lambda: results.append(executor.run(sleeper)))
    thread.start()
    seen: set[str] = set()
    while thread.is_alive():
        seen |= box_processes() - before
        time.sleep(0.05)
    thread.join()
    assert results[0].stdout == b"slept\n"
    assert len(seen) >= 2 if os.geteuid() == 0 else seen
    assert box_processes() <= before


def test_a_box_remembers_nothing_of_the_last(executor):
    """A time bomb: it would behave on its first run and do harm on its second."""
    source = (
        "import os\nnames = ('/tmp/mark', '/dev/shm/mark', '/tmp/.x')\n"
        "print([os.path.exists(name) for name in names])\n"
        "for name in names: open(name, 'w').write('here')"
    )
    first, second = (executor.run(Request(source=source)) for _ in range(2))
    assert first.stdout == second.stdout == b"[False, False, False]\n"


def test_boxes_that_run_together_cannot_meet(executor):
    """Neither sees the other's processes, files or sockets."""
    source = (
        "import os, socket, time\nopen('/tmp/mine', 'w').close()\n"
        "socket.socket(socket.AF_UNIX).bind('\\0meet')\ntime.sleep(0.3)\n"
        "pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]\n"
        "print(sorted(pids) == [1, os.getpid()], os.listdir('/tmp'))"
    )
    for result in executor.run_all([Request(source=source)] * 3):
        assert result.status is Status.OK, result.stderr
        assert result.stdout.startswith(b"True [")
        assert result.stdout.count(b"mine") == 1


def test_the_machines_own_socket_is_out_of_reach(executor):
    name = f"\\0openzaya-hostile-listener-{os.getpid()}"
    source = f"import socket\nsocket.socket(socket.AF_UNIX).connect('{name}')"
    result = executor.run(Request(source=source))
    assert result.exit_code == 1
    assert b"ConnectionRefusedError" in result.stderr


def test_the_canary_is_out_of_reach(executor):
    name = CANARY.format(os.getpid())
    result = executor.run(Request(source=f"open('{name}', 'w').write('dead')\nprint('wrote')"))
    assert result.stdout == b"wrote\n"  # into the box's own /tmp; untouched_machine looks at ours


def test_the_environment_of_the_caller_is_nowhere(executor, monkeypatch):
    monkeypatch.setenv("OPENZAYA_SECRET", "hush-4711")
    source = (
        "import glob, os\nseen = str(os.environ)\n"
        "for name in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: seen += open(name).read()\n    except OSError: pass\n"
        "print('hush' in seen, 'SECRET' in seen)"
    )
    assert executor.run(Request(source=source)).stdout == b"False False\n"
