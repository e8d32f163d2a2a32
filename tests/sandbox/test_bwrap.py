"""A run in a box of either backend: what goes in, what comes out, how each end is told apart."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from openzaya.core.errors import RequestError, SandboxError
from openzaya.sandbox import Executor, Limits, Request, Status
from openzaya.sandbox.box import LOCALE
from openzaya.sandbox.executor import MIB

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture(scope="module", params=["bwrap", "zygote"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor.default(request.param) as made:
        yield made


def run(executor, source, **fields):
    return executor.run(Request(source=source, **fields))


def test_a_program_reads_stdin_and_arguments_and_writes_both_streams(executor):
    source = "import sys\nprint(input()[::-1], *sys.argv)\nprint('warned', file=sys.stderr)"
    result = run(executor, source, stdin=b"abc\n", arguments=("x", "y z"))
    assert (result.status, result.exit_code, result.signal) == (Status.OK, 0, None)
    assert result.stdout == b"cba /tmp/main.py x y z\n"
    assert result.stderr == b"warned\n"
    assert result.backend == executor.name
    assert len(result.policy) == 16
    assert 0 < result.cpu_s < 5
    assert 0 < result.wall_s < 30
    assert MIB < result.peak_bytes < 100 * MIB


def test_files_go_in_and_only_those_asked_for_come_out(executor):
    source = "data = open('in.bin', 'rb').read()\nopen('out.bin', 'wb').write(data * 2)"
    data = bytes(range(256)) * 100
    result = run(executor, source, files={"in.bin": data}, fetch=("out.bin", "none"))
    assert result.status is Status.OK
    assert dict(result.files) == {"out.bin": data * 2}


def test_a_megabyte_of_output_and_of_input_is_exact(executor):
    source = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    data = bytes(range(256)) * 4096
    result = run(executor, source, stdin=data)
    assert (result.status, result.stdout) == (Status.OK, data)


def test_one_byte_more_than_the_limit_is_too_much_output(executor):
    limits = Limits(output_bytes=1000)
    exact = run(executor, "print('x' * 999)", limits=limits)
    assert (exact.status, len(exact.stdout)) == (Status.OK, 1000)
    more = run(executor, "print('x' * 1000)", limits=limits)
    assert (more.status, len(more.stdout)) == (Status.OUTPUT, 1000)
    assert "stdout" in more.reason


@pytest.mark.parametrize(
    ("source", "status", "code", "signal"),
    [
        ("raise SystemExit(3)", Status.EXIT, 3, None),
        ("raise SystemExit(137)", Status.EXIT, 137, None),
        ("raise SystemExit(139)", Status.EXIT, 139, None),
        ("1 / 0", Status.EXIT, 1, None),
        ("def f(:", Status.EXIT, 1, None),
        ("import os\nos._exit(0)", Status.OK, 0, None),
        ("import os\nos.kill(os.getpid(), 11)", Status.SIGNAL, None, 11),
        ("import os\nos.abort()", Status.SIGNAL, None, 6),
        ("import os\nos.kill(os.getpid(), 9)", Status.SIGNAL, None, 9),
    ],
)
def test_exit_codes_and_signals_are_told_apart(executor, source, status, code, signal):
    result = run(executor, source)
    assert (result.status, result.exit_code, result.signal) == (status, code, signal)


def test_an_error_is_shown_as_python_shows_it(executor):
    result = run(executor, "def f():\n    return 1 / 0\nf()")
    assert result.stderr.decode().splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "/tmp/main.py", line 3, in <module>',
        "    f()",
    ]
    assert b"<supervisor>" not in result.stderr
    assert b"<string>" not in result.stderr


def test_time_memory_and_sleep_have_limits_of_their_own(executor):
    spin = run(executor, "while True: pass", limits=Limits(cpu_s=0.2, wall_s=20))
    assert spin.status is Status.TIME_CPU
    assert 0.2 < spin.cpu_s < 1.5
    sleep = run(executor, "import time\ntime.sleep(60)", limits=Limits(wall_s=1.5))
    assert sleep.status is Status.TIME_WALL
    assert sleep.cpu_s < 0.3
    grow = "kept = []\nwhile True: kept.append(bytearray(2**20))"
    hungry = run(executor, grow, limits=Limits(memory_bytes=64 * MIB))
    assert hungry.status is Status.MEMORY
    assert 50 * MIB < hungry.peak_bytes < 80 * MIB


def test_memory_is_that_of_all_processes_together(executor):
    source = (
        "import os, time\nfor _ in range(4):\n    if not os.fork(): break\n"
        "kept = bytearray(40 * 2**20)\ntime.sleep(20)"
    )
    result = run(executor, source, limits=Limits(memory_bytes=100 * MIB, wall_s=30))
    assert result.status is Status.MEMORY
    assert result.peak_bytes > 100 * MIB


@pytest.mark.skipif(not Path(LOCALE).is_dir(), reason="the machine keeps its locale elsewhere")
def test_the_locale_that_the_environment_names_is_there(executor):
    python = run(executor, "import locale\nprint(locale.setlocale(locale.LC_ALL, ''))")
    assert python.stdout == b"C.UTF-8\n"
    source = (
        "#include <clocale>\n#include <cwchar>\n"
        'int main() { std::setlocale(LC_ALL, ""); std::wprintf(L"%lc", 0x20ac); }'
    )
    assert run(executor, source, language="cpp").stdout == "\u20ac".encode()


def test_sets_of_strings_iterate_alike_in_every_run(executor):
    source = "print({str(i) for i in range(50)})"
    first, second = run(executor, source).stdout, run(executor, source).stdout
    assert first == second != b""


def test_results_come_in_the_order_of_requests(executor):
    sources = [Request(source=f"print({number})") for number in range(6)]
    assert [result.stdout for result in executor.run_all(sources)] == [
        f"{number}\n".encode() for number in range(6)
    ]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_cpp_is_compiled_in_a_box_once_for_each_source(executor):
    source = '#include <cstdio>\nint main() { int a; scanf("%d", &a); printf("%d", a * 2); }'
    assert run(executor, source, language="cpp", stdin=b"21").stdout == b"42"
    built = len(executor.compiler.built)
    assert run(executor, source, language="cpp", stdin=b"5").stdout == b"10"
    assert len(executor.compiler.built) == built
    broken = run(executor, "int main() {", language="cpp")
    assert broken.status is Status.COMPILE
    assert b"error" in broken.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_a_program_too_large_for_its_folder_is_no_failure_of_ours(executor):
    source = "int big[1 << 20] = {1}; int main() { return big[5]; }"
    small = run(executor, source, language="cpp", limits=Limits(tmp_bytes=2 * MIB))
    assert (small.status, small.reason) == (Status.MEMORY, "too much in the working folder")
    assert run(executor, source, language="cpp").status is Status.OK


def test_a_compiled_program_has_one_process_and_a_large_stack(executor):
    deep = "int f(int n) { volatile char b[1000]; b[0] = n; return n ? f(n - 1) + b[0] : 0; }"
    deep += "int main() { return f(100000) == 1; }"
    assert run(executor, deep, language="cpp").status is Status.OK
    forks = "#include <unistd.h>\nint main() { return fork() < 0 ? 7 : 0; }"
    assert run(executor, forks, language="cpp").exit_code == 7
    more = run(executor, forks, language="cpp", limits=Limits(processes=2))
    assert more.exit_code == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"language": "cobol"},
        {"files": {"../x": b""}},
        {"files": {"/etc/x": b""}},
        {"files": {"a\0b": b""}},
        {"files": {"x" * 300: b""}},
        {"files": {"..": b""}},
        {"files": {"main.py": b""}},
        {"fetch": ("a/b",)},
        {"fetch": ("a", "a")},
        {"arguments": ("a\0b",)},
        {"limits": Limits(cpu_s=float("nan"))},
        {"limits": Limits(cpu_s=-1)},
        {"limits": Limits(memory_bytes=0)},
        {"limits": Limits(processes=10**6)},
        {"limits": Limits(output_bytes=True)},
        {"files": {"big": bytes(40 * MIB)}},
    ],
)
def test_what_no_sandbox_could_run_is_refused(executor, fields):
    with pytest.raises(RequestError, match="found"):
        run(executor, "pass", **fields)


def test_a_closed_executor_runs_nothing():
    with Executor.default() as made:
        pass
    with pytest.raises(SandboxError, match="closed"):
        made.run(Request(source="pass"))
