"""Without root: the doctor holds, runs work, and only then is there a backend without a box.

Run as root, these tests give up their rights in a child; what runs there is a copy of the packages
that the sandbox needs, in a place that everybody may read.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import openzaya
from openzaya.core.errors import RequestError, SandboxError
from openzaya.sandbox import Executor

PYTHON = "/usr/bin/python3"
UID = 64000
pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None or not Path(PYTHON).exists(),
    reason="needs bubblewrap and the system's Python",
)


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    """Yield a folder that holds the packages `core` and `sandbox`."""
    source = Path(openzaya.__file__).parent
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        target = Path(name, "openzaya")
        target.mkdir()
        shutil.copy(source / "__init__.py", target)
        for package in ("core", "sandbox"):
            shutil.copytree(source / package, target / package)
        for path in [Path(name), *Path(name).rglob("*")]:
            path.chmod(0o755)
        yield Path(name)


def run_as_ordinary(copy: Path, source: str) -> str:
    """Run Python code without rights; return what it printed."""
    drop = {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [PYTHON, "-c", source],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **drop,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_ordinary_user_has_the_whole_sandbox(copy):
    source = (
        "import json\nfrom openzaya.sandbox import doctor\n"
        "print(json.dumps([[probe.name, probe.held] for probe in doctor.examine()]))"
    )
    probes = json.loads(run_as_ordinary(copy, source))
    assert len(probes) == 14
    assert [name for name, held in probes if not held] == []


def test_an_ordinary_user_has_the_fast_backend(copy):
    source = (
        "from openzaya.sandbox import Executor, Request\n"
        "from openzaya.sandbox.probes import run_probes\n"
        "with Executor.default('zygote') as executor:\n"
        "    print([probe.name for probe in run_probes(executor) if not probe.held])\n"
        "    print(executor.run(Request(source='print(6 * 7)')).stdout)"
    )
    assert run_as_ordinary(copy, source) == "[]\nb'42\\n'\n"


def test_the_backend_without_a_box_keeps_time_and_output_limits_and_says_its_name(copy):
    source = """
import json
from openzaya.sandbox import Executor, Limits, Request
executor = Executor.default("none", unsafe=True)
programs = ["print(input())", "exit(7)", "import time; time.sleep(60)",
            "while True: print('x' * 2000)", "import os; os.abort()", "open('out', 'w').write('y')"]
for program in programs:
    limits = Limits(cpu_s=20, wall_s=1 if "sleep" in program else 60, output_bytes=1000)
    result = executor.run(Request(source=program, stdin=b"in", limits=limits, fetch=("out",)))
    files = {name: content.decode() for name, content in result.files.items()}
    print(json.dumps([result.status, result.backend, result.exit_code, result.signal, files]))
"""
    lines = [json.loads(line) for line in run_as_ordinary(copy, source).splitlines()]
    assert lines == [
        ["ok", "none", 0, None, {}],
        ["exit", "none", 7, None, {}],
        ["time_wall", "none", None, None, {}],
        ["output", "none", None, 9, {}],
        ["signal", "none", None, 6, {}],
        ["ok", "none", 0, None, {"out": "y"}],
    ]


def test_the_backend_without_a_box_wants_a_flag_and_no_root():
    with pytest.raises(SandboxError, match="unsafe=True"):
        Executor.default("none")
    if os.geteuid() == 0:
        with pytest.raises(SandboxError, match="found root"):
            Executor.default("none", unsafe=True)
    with pytest.raises(RequestError, match="expected one of bwrap"):
        Executor.default("docker")


def test_closing_kills_what_runs(copy):
    source = """
import threading, time
from openzaya.sandbox import Executor, Request
executor = Executor.default()
executor.run(Request(source="pass"))
results = []
sleeper = Request(source="import time; time.sleep(60)")
thread = threading.Thread(target=lambda: results.append(executor.run(sleeper)))
thread.start()
pid = executor.launchers["bwrap"].process.pid
while not open(f"/proc/{pid}/task/{pid}/children").read(): time.sleep(0.01)
time.sleep(0.2)
executor.close()
thread.join()
print(results[0].status, results[0].wall_s < 30)
"""
    assert run_as_ordinary(copy, source) == "infra True\n"


@pytest.mark.skipif(not Path("/usr/bin/g++").exists(), reason="g++ is not installed")
def test_a_user_without_a_home_compiles_without_precompiled_headers(copy):
    source = (
        "from openzaya.sandbox import Executor, Request\n"
        "program = '#include <bits/stdc++.h>\\nint main() { puts(\"42\"); }'\n"
        "with Executor.default() as executor:\n"
        "    print(executor.run(Request(source=program, language='cpp')).stdout)"
    )
    assert run_as_ordinary(copy, source) == "b'42\\n'\n"


def test_a_run_that_nobody_wants_any_more_is_infra_on_every_backend(copy):
    source = """
import threading
from openzaya.sandbox import Executor, Request
for name in ("bwrap", "zygote", "none"):
    with Executor.default(name, unsafe=True) as executor:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        request = Request(source="print(1, flush=True)\\nwhile True: pass", stop=stop)
        print(executor.run(request).status, executor.run(request).status)
"""
    assert run_as_ordinary(copy, source).split() == ["infra"] * 6
