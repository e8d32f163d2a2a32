"""run.py, the Makefile, the constraints and .ci/run fit together; a second set-up does nothing."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A copy of run.py's module that works in an empty folder and records what it would run."""
    for name in ("run.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    spec = importlib.util.spec_from_file_location("house_run", tmp_path / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []

    def pretend(command):
        module.commands.append(command)
        module.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        module.PYTHON.touch()

    monkeypatch.setattr(module, "run", pretend)
    monkeypatch.setattr(module, "report_torch", lambda: None)
    return module


def pip_targets(runner) -> list[str]:
    return [command[-1] for command in runner.commands if "pip" in command]


def test_the_first_set_up_makes_a_venv_and_installs_under_the_constraints(runner):
    runner.setup("")
    venv, pip = runner.commands
    assert venv[1:3] == ["-m", "venv"]
    assert pip[pip.index("-c") + 1] == str(runner.ROOT / "constraints.txt")
    assert pip_targets(runner) == [str(runner.ROOT)]


def test_a_second_set_up_does_nothing_and_more_extras_add_to_it(runner):
    runner.setup("")
    runner.setup("")
    assert len(runner.commands) == 2
    runner.setup("dev")
    assert pip_targets(runner)[1:] == [f"{runner.ROOT}[dev]"]
    runner.setup("")
    runner.setup("dev")
    assert len(runner.commands) == 3


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_installs_again(runner, name):
    runner.setup("")
    path = runner.ROOT / name
    path.write_text(path.read_text() + "\n# changed\n")
    runner.setup("")
    assert len(pip_targets(runner)) == 2


def test_an_interrupted_or_torn_set_up_is_done_again(runner):
    runner.setup("")
    runner.STAMP.write_text("{torn")
    runner.setup("")
    assert len(pip_targets(runner)) == 2
    runner.STAMP.write_text(json.dumps({"hash": "x", "root": "/moved/away", "extras": [""]}))
    runner.setup("")
    assert runner.commands[-2][1:3] == ["-m", "venv"]


def test_a_failing_install_leaves_no_stamp(runner, monkeypatch):
    def fail(command):
        raise SystemExit(7)

    runner.setup("")
    runner.STAMP.write_text("{}")
    monkeypatch.setattr(runner, "run", fail)
    with pytest.raises(SystemExit):
        runner.setup("")
    assert not runner.STAMP.exists()


def test_two_set_ups_at_once_install_one_after_the_other(runner, monkeypatch):
    """The second waits while the first installs, then adds to what it finds."""
    begun, waits = threading.Event(), threading.Event()
    pretend = runner.run

    def slow(command):
        begun.set()
        assert waits.wait(20), "the other set-up did not wait"
        pretend(command)

    monkeypatch.setattr(runner, "run", slow)
    monkeypatch.setattr(runner, "say", lambda line: waits.set() if "waiting" in line else None)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(runner.setup, "")
        assert begun.wait(20)
        second = threads.submit(runner.setup, "dev")
        first.result(), second.result()
    assert pip_targets(runner) == [str(runner.ROOT), f"{runner.ROOT}[dev]"]
    assert json.loads(runner.STAMP.read_text())["extras"] == ["", "dev"]


def test_a_failed_set_up_holds_up_nobody(runner, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(runner, "run", lambda command: runner.sys.exit(7))
        with pytest.raises(SystemExit):
            runner.setup("")
    monkeypatch.setattr(runner, "say", lambda line: pytest.fail(line) if "wait" in line else None)
    runner.setup("")
    assert runner.STAMP.exists()


@pytest.mark.parametrize("has_flock", [True, False])
def test_where_files_have_no_locks_the_set_up_goes_on(runner, monkeypatch, has_flock):
    def refuse(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(runner.fcntl, "flock", refuse)
    if not has_flock:
        monkeypatch.setattr(runner, "fcntl", None)
    runner.setup("")
    assert runner.STAMP.exists()


def test_ctrl_c_while_waiting_is_no_traceback(runner):
    command = [sys.executable, str(runner.ROOT / "run.py"), "setup"]
    with runner.alone():
        waits = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert "waiting for another set-up" in waits.stderr.readline()
            waits.send_signal(signal.SIGINT)
            _, shown = waits.communicate(timeout=20)
        finally:
            waits.kill()
    assert (waits.returncode, shown) == (
        130,
        "run.py: stopped by Ctrl-C; running this again continues\n",
    )
    assert not runner.VENV.exists()


def test_an_old_python_and_a_missing_venv_are_told_how_to_go_on(runner, monkeypatch):
    monkeypatch.setattr(runner.sys, "version_info", (3, 9, 1, "final", 0))
    with pytest.raises(SystemExit, match=r"needs Python 3.11 or newer, this is 3.9"):
        runner.main(["setup"])
    monkeypatch.undo()
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="python3-venv"):
        runner.setup("")


@pytest.mark.parametrize(
    ("build", "has_gpu", "warns"),
    [
        (("2.13.0+cpu", None, None), False, False),
        (("2.13.0", "13.0", None), False, True),
        (("2.13.0", "13.0", None), True, False),
    ],
)
def test_a_cuda_build_without_a_gpu_is_warned_about(
    tmp_path, monkeypatch, capsys, build, has_gpu, warns
):
    spec = importlib.util.spec_from_file_location("house_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    done = subprocess.CompletedProcess([], 0, json.dumps(build).encode(), b"")
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **kwargs: done)
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/x" if has_gpu else None)
    module.report_torch()
    shown = capsys.readouterr().err
    assert build[0] in shown
    assert ("PIP_EXTRA_INDEX_URL" in shown) is warns


def test_no_child_can_pull_another_torch(runner):
    assert runner.child_env()["PIP_CONSTRAINT"] == (runner.ROOT / "constraints.txt").as_uri()


def test_make_knows_every_verb_of_run_py(runner):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    verbs = set(
        re.findall(r'^        "([\w-]+)": \("', (ROOT / "run.py").read_text(), re.MULTILINE)
    )
    assert targets - {"help"} == verbs
    assert verbs >= {"setup", "demo", "test", "test-slow", "test-real", "check", "fix", "bench"}


def test_torch_is_pinned_first_and_without_a_build():
    assert PINS[0] == "torch==2.13.0"
    assert sum(pin.startswith("torch==") for pin in PINS) == 1


def test_constraints_name_versions_only():
    """No local path, no index, no host: the file must mean the same everywhere."""
    for pin in PINS:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; python_full_version (<|>=) '3\.12')?", pin), pin


def test_every_dependency_of_the_project_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(item for e in extras.values() for item in e)]
    names = {re.match(r"[\w-]+", item)[0].lower() for item in wanted} - {"openzaya"}
    assert names - {pin.partition("==")[0] for pin in PINS} == set()


def test_every_dependency_of_the_core_is_imported():
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for item in PROJECT["project"]["dependencies"]:
        module = re.match(r"[\w-]+", item)[0].replace("-", "_")
        assert re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE), item


def test_ci_runs_the_readmes_test_command():
    ci = (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert "make test\n" in ci
    assert "make check\n" in ci
    assert "make test-real\n" in ci
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
