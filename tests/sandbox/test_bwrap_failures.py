"""When making or keeping a box fails, that is our failure, told as such, and nothing leaks."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from openzaya.core.errors import SandboxError
from openzaya.sandbox import Request, Status
from openzaya.sandbox.bwrap import BwrapExecutor
from openzaya.sandbox.languages import LANGUAGES

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
HELLO = Request(source="print('hello')")


@pytest.fixture
def executor() -> Iterator[BwrapExecutor]:
    with BwrapExecutor() as made:
        yield made


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children(pid: int) -> set[int]:
    """Return the processes that a process has started and not collected."""
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return set()


def break_bwrap(executor: BwrapExecutor, path: str) -> None:
    executor.bwrap = path
    executor.command.cache_clear()


def test_where_no_box_can_start_the_first_run_says_so(executor):
    break_bwrap(executor, "/bin/false")
    with pytest.raises(SandboxError, match="no sandbox works here"):
        executor.run(HELLO)


LIMITED = """
import resource, sys
from openzaya.sandbox import Executor, Request
backend, name, most, language, source = sys.argv[1:]
resource.setrlimit(getattr(resource, name), (int(most), int(most)))
with Executor.default(backend) as executor:
    try:
        result = executor.run(Request(source=source, language=language))
        print(result.status, result.reason)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.fixture(params=["bwrap", "zygote"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("name", "most", "language", "source"),
    [
        ("RLIMIT_NOFILE", 60, "python", "print(1)"),
        ("RLIMIT_NPROC", 16, "python", "print(1)"),
        ("RLIMIT_STACK", 2**23, "cpp", "int main() {}"),
        ("RLIMIT_AS", 2**30, "cpp", "int main() {}"),
    ],
)
def test_a_hard_limit_of_the_callers_below_a_programs_own_is_no_verdict(
    backend, name, most, language, source
):
    command = [sys.executable, "-c", LIMITED, backend, name, str(most), language, source]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert said.startswith(("infra", "SandboxError")), said
    assert name in said
    assert f"the hard limit here is {most}" in said
    assert said.startswith("infra") or "ulimit -H" in said


ODD_CALLER = """
import os, signal, sys
from pathlib import Path
from openzaya.sandbox import Executor, Request
numbers = {number for number in signal.valid_signals() if number not in (9, 19)}
os.umask(0o177)
for number in numbers - {17}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
script = (
    "import os, signal\\n"
    "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), oct(os.umask(0)))\\n"
    "print([int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN])"
)
with Executor.default(sys.argv[1]) as executor:
    print(executor.run(Request(source=script)).stdout.decode(), end="")
    print(executor.run(Request(source="int main() {}", language="cpp")).status)
    pid = executor.launchers[sys.argv[1]].process.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = children[0]  # the zygote's launcher has one, which forks the boxes
        print(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
"""


def test_what_the_caller_did_with_signals_and_modes_is_not_a_programs_fate(backend):
    command = [sys.executable, "-c", ODD_CALLER, backend]
    done = subprocess.run(command, capture_output=True, text=True)
    left = ["S"] if backend == "zygote" else []  # no zombie
    assert done.stdout.splitlines() == ["set() 0o22", "[13, 25]", "ok", *left], done.stderr


def test_a_later_box_that_cannot_start_is_infra_and_leaves_no_descriptor_open(executor):
    assert executor.run(HELLO).stdout == b"hello\n"
    before = open_descriptors()
    for path, reason in (("/nonexistent/bwrap", "No such file"), ("/bin/false", "could not start")):
        break_bwrap(executor, path)
        result = executor.run(HELLO)
        assert result.status is Status.INFRA
        assert reason in result.reason
        assert open_descriptors() == before


def test_a_box_that_is_killed_from_outside_is_infra_after_a_second_try(executor):
    """As if the machine had run out of memory and taken the box with it."""
    assert executor.run(HELLO).status is Status.OK
    results = []
    sleeper = Request(source="import time\ntime.sleep(30)")
    thread = threading.Thread(target=lambda: results.append(executor.run(sleeper)))
    thread.start()
    killed: set[int] = set()
    while len(killed) < 2:
        for child in children(executor.launchers["bwrap"].process.pid) - killed:
            inside = children(child)
            if inside:
                os.kill(inside.pop(), signal.SIGKILL)
                killed.add(child)
        time.sleep(0.01)
    thread.join()
    assert results[0].status is Status.INFRA
    assert executor.run(HELLO).status is Status.OK


def test_a_first_run_without_its_share_of_a_processor_says_nothing_of_the_machine(
    executor, monkeypatch
):
    starved = replace(executor.run(HELLO), status=Status.INFRA, reason="it waited")
    executor.proven = False
    tries = []
    monkeypatch.setattr(executor, "attempt", lambda *_: tries.append(1) or starved)
    assert executor.run(HELLO).status is Status.INFRA
    assert len(tries) == 2


def test_a_compiler_that_is_missing_is_no_verdict(executor):
    missing = replace(LANGUAGES["cpp"], compiler=("/nonexistent/g++", "main.cpp"))
    with pytest.raises(SandboxError, match="apt-get install"):
        executor.compiler.build("int main() {}", missing)


def test_a_spawner_that_died_is_replaced(executor):
    assert executor.run(HELLO).stdout == b"hello\n"
    victim = executor.launchers["bwrap"].process
    victim.kill()
    victim.wait()
    assert executor.run(HELLO).stdout == b"hello\n"
    assert executor.launchers["bwrap"].process is not victim


def test_closing_ends_a_box_at_whatever_point_it_is(executor):
    results = []
    sleeper = Request(source="import os, time\nos.fork()\ntime.sleep(60)")
    thread = threading.Thread(target=lambda: results.append(executor.run(sleeper)), daemon=True)
    thread.start()
    while not (spawner := executor.launchers.get("bwrap")) or not children(spawner.process.pid):
        time.sleep(0.01)
    (outer,) = children(spawner.process.pid)
    while not (inside := children(outer)):
        time.sleep(0.01)
    began = time.monotonic()
    executor.close()
    thread.join()
    assert time.monotonic() - began < 20
    assert results[0].status is Status.INFRA
    for pid in (outer, *inside):
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/exe").is_symlink() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{pid}/exe").is_symlink()


def test_a_closed_executor_runs_nothing(executor):
    executor.close()
    with pytest.raises(SandboxError, match="closed"):
        executor.run(HELLO)
