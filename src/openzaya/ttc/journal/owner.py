"""Who works on a run, and whether that process still lives."""

import os
import secrets
from functools import cache
from pathlib import Path


def new_owner() -> str:
    """Return a name for a journal opened by this process: machine, process, start, and chance."""
    pid = os.getpid()
    return f"{_machine()}:{pid}:{_started(pid)}:{secrets.token_hex(4)}"


def is_gone(owner: str) -> bool:
    """Say whether the owner surely lives no more: it ran on this machine, and its process ended.

    False for owners elsewhere: only time tells about them.
    """
    machine, _, rest = owner.partition(":")
    pid, _, rest = rest.partition(":")
    started = rest.partition(":")[0]
    if machine != _machine() or not pid.isdigit():
        return False
    began = _own_start(int(pid)) if int(pid) == os.getpid() else _started(int(pid))
    return began != started


@cache
def _own_start(pid: int) -> str:
    """Return when this process began; its number is an argument because a fork has another."""
    return _started(pid)


@cache
def _machine() -> str:
    """Return what names this boot and this process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return "unknown"


def _started(pid: int) -> str:
    """Return when a process began, in ticks since the boot; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    is_dead = fields[0] in ("Z", "X")
    return "" if is_dead else fields[19]
