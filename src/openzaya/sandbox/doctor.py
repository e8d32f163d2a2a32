"""Find out whether this machine can sandbox programs with bubblewrap, and if not, what would help.

The kernel has several switches that forbid user namespaces; a flag that looks right proves little,
so `probe` starts a real, empty sandbox, and `examine` tries to break real boxes.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox.executor import Executor
from openzaya.sandbox.probes import Probe, run_probes
from openzaya.sandbox.remedies import remedy

PROBE_TIMEOUT_S = 10.0
INSTALL = "install it: apt-get install bubblewrap (or dnf, apk, pacman)"
SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "give bwrap an AppArmor profile with `userns,`, or "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
"""Files below /proc/sys, the value that forbids user namespaces, and the cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReport:
    """What the probes found."""

    works: bool
    """A real sandbox started, ran a program without network and ended."""
    backend: str
    """The backend that openzaya will use: "bubblewrap" or "none"."""
    path: str | None
    """The bwrap binary, or None when there is none on PATH."""
    version: str | None
    blocked_by: tuple[str, ...]
    """Kernel switches that forbid user namespaces to ordinary users."""
    reason: str
    """What the probe said when it failed; empty when the sandbox works."""
    remedy: str
    """What to do; empty when the sandbox works."""


def probe(proc_sys: Path = Path("/proc/sys")) -> SandboxReport:
    """Look for bubblewrap, read the kernel's switches and start one empty sandbox."""
    path = shutil.which("bwrap")
    blocked = blocking_switches(proc_sys)
    names = tuple(name for name, _ in blocked)
    cures = "; ".join(cure for _, cure in blocked)
    if path is None:
        return SandboxReport(
            works=False,
            backend="none",
            path=None,
            version=None,
            blocked_by=names,
            reason="bwrap (bubblewrap) is not on PATH",
            remedy=f"{INSTALL}; then: {cures}" if cures and os.geteuid() != 0 else INSTALL,
        )
    reason = start_sandbox(path)
    return SandboxReport(
        works=not reason,
        backend="none" if reason else "bubblewrap",
        path=path,
        version=version_of(path),
        blocked_by=names,
        reason=reason,
        remedy=(cures or remedy(reason)) if reason else "",
    )


def examine() -> list[Probe]:
    """Try to break real boxes of the default backend; each probe says whether the box held.

    Raises SandboxError, with the cure, where no box starts.
    """
    report = probe()
    if not report.works:
        raise SandboxError(f"found no working sandbox: {report.reason}; {report.remedy}")
    with Executor.default() as executor:
        return run_probes(executor)


def blocking_switches(proc_sys: Path) -> list[tuple[str, str]]:
    """Return (switch, cure) for every kernel switch that forbids user namespaces."""
    found = []
    for name, forbidding, cure in SWITCHES:
        try:
            value = (proc_sys / name).read_text().strip()
        except OSError:
            continue  # this kernel does not have the switch
        if value == forbidding:
            found.append((name.replace("/", "."), cure))
    return found


def start_sandbox(path: str) -> str:
    """Run `true` in fresh namespaces; return why it failed, or an empty string."""
    command = [
        path,
        "--unshare-all",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--clearenv",
        "/bin/sh",
        "-c",
        "exit 0",
    ]
    code, output = run_quietly(command)
    if code == 0:
        return ""
    return output.strip().splitlines()[-1] if output.strip() else f"bwrap ended with code {code}"


def version_of(path: str) -> str | None:
    """Return what `bwrap --version` says, without the program's name."""
    code, output = run_quietly([path, "--version"])
    return output.split()[-1] if code == 0 and output.split() else None


def run_quietly(command: list[str]) -> tuple[int, str]:
    """Run a probe with an empty environment; return its exit code and what it printed."""
    try:
        done = subprocess.run(
            command,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    except OSError as error:
        return 127, f"cannot start {command[0]}: {error.strerror}"
    return done.returncode, done.stdout + done.stderr
