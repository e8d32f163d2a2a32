"""The sandbox's probes: a real run decides, and each failure names its own remedy."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openzaya.cli.main import main
from openzaya.core.errors import SandboxError
from openzaya.sandbox import doctor, probes


@pytest.fixture
def bwrap(tmp_path, monkeypatch):
    """Put a program named bwrap on PATH that does what the test says."""

    def install(script: str) -> Path:
        path = tmp_path / "bwrap"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return path

    return install


def kernel(tmp_path: Path, **values: str) -> Path:
    """Make a /proc/sys with the given switches; `__` stands for a slash."""
    for name, value in values.items():
        path = tmp_path / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return tmp_path / "sys"


def test_a_missing_bwrap_is_to_be_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    report = doctor.probe(kernel(tmp_path))
    assert (report.works, report.backend, report.path) == (False, "none", None)
    assert "not on PATH" in report.reason
    assert report.remedy == doctor.INSTALL


def test_a_sandbox_that_starts_works_whatever_the_switches_say(bwrap, tmp_path):
    path = bwrap('[ "$1" = --version ] && echo "bubblewrap 0.8.0"; exit 0')
    switches = kernel(tmp_path, kernel__unprivileged_userns_clone="0")
    report = doctor.probe(switches)
    assert (report.works, report.backend, report.path) == (True, "bubblewrap", str(path))
    assert (report.version, report.reason, report.remedy) == ("0.8.0", "", "")
    assert report.blocked_by == ("kernel.unprivileged_userns_clone",)


@pytest.mark.parametrize(
    ("switches", "cure"),
    [
        ({"kernel__unprivileged_userns_clone": "0"}, "unprivileged_userns_clone=1"),
        ({"user__max_user_namespaces": "0"}, "max_user_namespaces=15000"),
        ({"kernel__apparmor_restrict_unprivileged_userns": "1"}, "AppArmor profile"),
        ({"user__max_user_namespaces": "63000"}, "AppArmor profile"),
        ({"kernel__unprivileged_userns_clone": "1"}, "AppArmor profile"),
    ],
)
def test_a_sandbox_that_fails_names_the_switch_or_the_container(bwrap, tmp_path, switches, cure):
    bwrap('echo "bwrap: setting up uid map: Permission denied" >&2; exit 1')
    report = doctor.probe(kernel(tmp_path, **switches))
    assert not report.works
    assert report.backend == "none"
    assert report.reason == "bwrap: setting up uid map: Permission denied"
    assert cure in report.remedy


@pytest.mark.parametrize(
    ("says", "cure"),
    [
        ("bwrap: setting up uid map: Permission denied", "AppArmor profile"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "AppArmor profile"),
        ("bwrap: No permissions to create new namespace, likely because", "seccomp=unconfined"),
        ("bwrap: nesting depth or max_user_namespaces exceeded (ENOSPC)", "outside of it"),
        ("bwrap: Unknown option --disable-userns", "0.8 or newer"),
        ("bwrap: something new", "seccomp=unconfined"),
    ],
)
def test_each_known_complaint_of_bubblewrap_has_its_own_cure(bwrap, tmp_path, says, cure):
    bwrap(f"echo '{says}' >&2; exit 1")
    report = doctor.probe(kernel(tmp_path))
    assert report.reason == says
    assert cure in report.remedy


def test_a_silent_failure_and_a_hanging_probe_still_have_a_reason(bwrap, tmp_path, monkeypatch):
    bwrap("exit 3")
    assert doctor.probe(kernel(tmp_path)).reason == "bwrap ended with code 3"
    sleep = shutil.which("sleep", path="/usr/bin:/bin")
    bwrap(f"exec {sleep} 5")
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.1)
    assert "no answer within" in doctor.probe(kernel(tmp_path)).reason


def test_a_program_that_cannot_start_is_not_a_crash(bwrap, tmp_path):
    path = bwrap("")
    path.write_text("#!/nonexistent/interpreter\n")
    assert "cannot start" in doctor.probe(kernel(tmp_path)).reason


NEEDS_BWRAP = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed"
)
EXAMINE = """
import sys
import filtered
from openzaya.cli.main import main
from openzaya.core.errors import SandboxError
from openzaya.sandbox import doctor, seccomp
if sys.argv[1] == "filtered":  # what the default profile of containers forbids
    clone = seccomp.ARGUMENT_RULES["clone"]
    actions = {272: seccomp.DENY, clone.number: clone, 435: seccomp.ABSENT}
    filtered.install(seccomp.assemble(actions, default=seccomp.ALLOW, newer=seccomp.ALLOW))
try:
    doctor.examine()
except SandboxError as error:
    print(error)
"""


def examine_in(*words: str, filtered: bool = False) -> str:
    """Call doctor.examine() below a command; return its refusal."""
    command = [*words, sys.executable, "-c", EXAMINE, "filtered" if filtered else "free"]
    places = f"{Path(__file__).parent}:{Path(doctor.__file__).parents[2]}"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": places}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout


@NEEDS_BWRAP
def test_fourteen_probes_hold_on_this_machine():
    probes = doctor.examine()
    assert len(probes) == 14
    assert [probe for probe in probes if not probe.held] == []
    assert examine_in() == ""


@NEEDS_BWRAP
def test_where_namespaces_are_filtered_it_refuses_with_the_containers_remedy():
    refusal = examine_in(filtered=True)
    assert "No permissions to creat" in refusal
    assert "seccomp=unconfined" in refusal


NESTED = ("bwrap", "--unshare-user", "--disable-userns", "--ro-bind", "/", "/", "--dev", "/dev")


@NEEDS_BWRAP
def test_inside_a_sandbox_it_refuses_and_says_so():
    refusal = examine_in(*NESTED, "--proc", "/proc", "--uid", "1000", "--gid", "1000")
    assert "ENOSPC" in refusal
    assert "outside of it" in refusal


def test_probes_that_do_not_hold_are_named(monkeypatch):
    found = [probes.Probe("clock", held=True, found="killed")]
    monkeypatch.setattr(probes, "run_probes", lambda _: found)
    probes.require(None)
    found.append(probes.Probe("vsock", held=False, found="done"))
    with pytest.raises(SandboxError, match=r"does not hold: vsock \(done\);"):
        probes.require(None)


@NEEDS_BWRAP
def test_the_real_bwrap_is_judged_by_a_real_run():
    report = doctor.probe()
    assert report.works is (report.reason == "")
    assert report.version


@NEEDS_BWRAP
def test_a_sandbox_that_does_not_hold_is_not_served(monkeypatch, capsys):
    pytest.importorskip("uvicorn")
    leaky = probes.Probe("vsock", held=False, found="done")
    monkeypatch.setattr(probes, "run_probes", lambda _: [leaky])
    handlers = list(logging.getLogger().handlers)
    assert main(["serve", "--sandbox", "--port", "0"]) != 0
    assert logging.getLogger().handlers == handlers
    assert "does not hold: vsock (done)" in capsys.readouterr().err
