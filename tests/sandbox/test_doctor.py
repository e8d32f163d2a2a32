"""The sandbox's probes: a real run decides, and each failure names its own remedy."""

import shutil
from pathlib import Path

import pytest

from openzaya.sandbox import doctor


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
        ({"user__max_user_namespaces": "63000"}, "seccomp=unconfined"),
        ({"kernel__unprivileged_userns_clone": "1"}, "seccomp=unconfined"),
    ],
)
def test_a_sandbox_that_fails_names_the_switch_or_the_container(bwrap, tmp_path, switches, cure):
    bwrap('echo "bwrap: setting up uid map: Permission denied" >&2; exit 1')
    report = doctor.probe(kernel(tmp_path, **switches))
    assert not report.works
    assert report.backend == "none"
    assert report.reason == "bwrap: setting up uid map: Permission denied"
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


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_real_bwrap_is_judged_by_a_real_run():
    report = doctor.probe()
    assert report.works is (report.reason == "")
    assert report.version
