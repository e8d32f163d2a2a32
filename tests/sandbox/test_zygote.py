"""What is special about boxes forked from a launcher: its memory and its end.

test_bwrap.py, test_ending.py and the hostile suite run on both backends.
"""

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openzaya.core.errors import SandboxError
from openzaya.sandbox import Limits, Request, Status
from openzaya.sandbox.probes import run_probes
from openzaya.sandbox.zygote import ZygoteExecutor, make_zygote

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
SRC = Path(__file__).parents[2] / "src"
CANARY = "canary-4f1c9a77d2"


@pytest.fixture(scope="module")
def zygote() -> Iterator[ZygoteExecutor]:
    with ZygoteExecutor() as made:
        yield made


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes below one."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found |= {child} | descendants(child)
    return found


def wait_until_gone(pids: set[int], within_s: float = 5.0) -> set[int]:
    """Return those that are still there after a while."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        pids = {pid for pid in pids if Path(f"/proc/{pid}/exe").is_symlink()}
        if not pids:
            break
        time.sleep(0.01)
    return pids


def test_the_doctors_probes_hold(zygote):
    probes = run_probes(zygote)
    assert len(probes) >= 10
    assert [probe for probe in probes if not probe.held] == []


def test_random_numbers_differ_between_runs_and_string_hashes_do_not(zygote):
    draw = "import random, os, uuid\nprint(random.random(), os.urandom(8), uuid.uuid4())"
    assert len({zygote.run(Request(source=draw)).stdout for _ in range(4)}) == 4
    hashes = "print(hash('a'), {str(n) for n in range(20)})"
    assert len({zygote.run(Request(source=hashes)).stdout for _ in range(3)}) == 1


SEARCH = """
import os, sys
found = []
for line in open("/proc/self/maps"):
    ends, rights, _, _, _, *name = line.split()
    if "r" not in rights or name[:1] in (["[vvar]"], ["[vsyscall]"], ["[vvar_vclock]"]):
        continue
    low, high = (int(end, 16) for end in ends.split("-"))
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(low)
        try:
            content = memory.read(high - low)
        except OSError:
            continue
    if bytes(map(int, "NEEDLE".split())) in content:
        found.append(line)
print(len(found), os.environ.get("OPENZAYA_SECRET"), open("/proc/1/environ", "rb").read()
    if os.access("/proc/1/environ", os.R_OK) else "closed")
"""


def test_nothing_of_the_callers_memory_is_in_a_program(monkeypatch):
    """The secret is in our environment and our heap; the program searches all of its memory.

    It carries the needle as numbers, so that it does not find its own source; that the search
    works is proved with a needle that is there.
    """
    monkeypatch.setenv("OPENZAYA_SECRET", CANARY)
    kept = [CANARY + str(n) for n in range(1000)]
    needle = " ".join(str(byte ^ 0) for byte in CANARY.encode())
    with ZygoteExecutor() as zygote:
        result = zygote.run(Request(source=SEARCH.replace("NEEDLE", needle)))
        control = " ".join(map(str, b"OPENZAYA_SECRET"))
        there = zygote.run(Request(source=SEARCH.replace("NEEDLE", control)))
    assert len(kept) == 1000
    assert result.stdout.split()[:2] == [b"0", b"None"], result
    assert int(there.stdout.split()[0]) > 0, there


def test_one_run_leaves_nothing_for_the_next(zygote):
    leave = (
        "import builtins, json, os, socket\nbuiltins.left = 1\njson.left = 1\n"
        "open('/tmp/left', 'w').write('x')\nos.environ['LEFT'] = '1'\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0left'); s.listen()\nprint('done')"
    )
    look = (
        "import builtins, json, os, socket\n"
        "print(hasattr(builtins, 'left'), hasattr(json, 'left'), os.path.exists('left'),\n"
        "      'LEFT' in os.environ)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect('\\0left'); print('met')\nexcept OSError as e: print(type(e).__name__)"
    )
    stay = leave + "\nimport time\nprint(flush=True)\ntime.sleep(1)"
    first = threading.Thread(target=lambda: zygote.run(Request(source=stay)))
    first.start()
    results = [zygote.run(Request(source=leave)), zygote.run(Request(source=look))]
    first.join()
    assert results[0].stdout == b"done\n"
    assert results[1].stdout == b"False False False False\nConnectionRefusedError\n"


def test_a_program_sees_its_own_processes_and_descriptors_only(zygote):
    source = (
        "import os\nprint(sorted(p for p in os.listdir('/proc') if p.isdigit()))\n"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])"
    )
    assert zygote.run(Request(source=source)).stdout == b"['1', '2']\n[0, 1, 2]\n"


def test_a_program_cannot_write_a_report(zygote):
    """It shouts the report of a success into every descriptor, then fails."""
    source = (
        "import os\nfor fd in range(256):\n    try: os.write(fd, "
        "b'exit 0 0.1 0.1 1000 0.0\\nend\\n')\n    except OSError: pass\nos._exit(3)"
    )
    result = zygote.run(Request(source=source))
    assert (result.status, result.exit_code) == (Status.EXIT, 3)


def test_a_killed_launcher_is_a_failure_of_ours_and_is_replaced(zygote):
    assert zygote.run(Request(source="print(1)")).stdout == b"1\n"
    victim = zygote.launchers["zygote"].process
    below = descendants(victim.pid)
    assert below
    victim.kill()
    assert wait_until_gone(below) == set()
    result = zygote.run(Request(source="print(2)"))
    assert (result.status, result.stdout) == (Status.OK, b"2\n")
    assert zygote.launchers["zygote"].process is not victim


def test_a_launcher_killed_while_a_program_runs_never_makes_it_wrong(zygote):
    results = []
    source = "import time\ntime.sleep(1.5)\nprint('slept')"
    thread = threading.Thread(target=lambda: results.append(zygote.run(Request(source=source))))
    thread.start()
    victim = zygote.launchers["zygote"].process.pid
    deadline = time.monotonic() + 10
    while len(descendants(victim)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    thread.join()
    # run again in a new box, or told as our failure; never as the program's
    assert results[0].status in (Status.OK, Status.INFRA)


def test_closing_ends_running_programs():
    results = []
    zygote = ZygoteExecutor()
    source = "import time\ntime.sleep(60)"
    thread = threading.Thread(target=lambda: results.append(zygote.run(Request(source=source))))
    thread.start()
    launcher = zygote.launchers["zygote"].process.pid
    while len(descendants(launcher)) < 3:
        time.sleep(0.01)
    below = descendants(launcher)
    began = time.monotonic()
    zygote.close()
    thread.join()
    assert time.monotonic() - began < 5
    assert results[0].status is Status.INFRA
    assert wait_until_gone(below) == set()
    with pytest.raises(SandboxError, match="closed"):
        zygote.run(Request(source="pass"))


def test_nobody_survives_a_killed_caller():
    program = textwrap.dedent(
        """
        import threading, time
        from openzaya.sandbox import Executor, Limits, Request
        executor = Executor.default("zygote")
        sleep = "import os, time\\nos.fork()\\nos.setsid() if os.getpid() > 2 else 0\\n"
        sleep += "print('here', flush=True)\\ntime.sleep(60)"
        spin = "while True: pass"
        for source in (sleep, spin):
            call = lambda s=source: executor.run(Request(source=s, limits=Limits(cpu_s=60)))
            threading.Thread(target=call, daemon=True).start()
        print(executor.launchers['zygote'].process.pid, flush=True)
        time.sleep(60)
        """
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert caller.stdout is not None
    launcher = int(caller.stdout.readline())
    deadline = time.monotonic() + 10
    while len(descendants(launcher)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    below = descendants(launcher) | {launcher}
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert len(below) >= 5
    assert wait_until_gone(below) == set()


def test_many_runs_leave_no_descriptor_and_no_process(zygote):
    def state():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), descendants(
            zygote.launchers["zygote"].process.pid
        )

    zygote.run(Request(source="pass"))
    before = state()
    for number in range(30):
        zygote.run(Request(source=["pass", "1 / 0", "import os\nos.fork()"][number % 3]))
    assert state() == before


def test_ten_threads_get_their_own_answers(zygote):
    requests = [Request(source=f"print({n} * 7)", stdin=bytes(n)) for n in range(40)]
    answers = {}

    def ask(start):
        for n in range(start, 40, 10):
            answers[n] = zygote.run(requests[n]).stdout

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: b"%d\n" % (n * 7) for n in range(40)}


def test_the_working_folder_has_a_size_and_a_number_of_files(zygote):
    fill = (
        "import errno\ntry:\n    for n in range(100):\n"
        "        open(f'f{n}', 'wb').write(bytes(2**20))\n"
        "except OSError as e:\n    print(errno.errorcode[e.errno], n)"
    )
    result = zygote.run(Request(source=fill, limits=Limits(tmp_bytes=8 * 2**20)))
    assert result.stdout in (b"ENOSPC 7\n", b"ENOSPC 8\n")


def test_a_launcher_that_cannot_build_its_root_says_so(zygote, monkeypatch):
    monkeypatch.setattr("openzaya.sandbox.zygote.box.DEVICES", ("null", "no-such-device"))
    with pytest.raises(SandboxError, match="no-such-device"):
        make_zygote(zygote.interpreter, zygote.identity)


def test_the_program_of_a_box_has_no_rights_at_all(zygote):
    source = (
        "for line in open('/proc/self/status'):\n"
        "    if line.startswith(('Cap', 'NoNewPrivs', 'Seccomp:', 'Uid', 'Gid', 'Groups')):\n"
        "        print(' '.join(line.split()))"
    )
    lines = zygote.run(Request(source=source)).stdout.decode().splitlines()
    assert lines == [
        "Uid: 1000 1000 1000 1000",
        "Gid: 1000 1000 1000 1000",
        "Groups:",
        *(f"Cap{name}: 0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
        "NoNewPrivs: 1",
        "Seccomp: 2",
    ]
