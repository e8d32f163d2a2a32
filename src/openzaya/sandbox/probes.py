"""Fourteen attempts to break a box: each says whether this machine's sandbox holds.

Ten are made by one program inside one box, which prints what it could do; the others need the
host's view of a run. The program is ours, so its word is good.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox.executor import MIB, Executor, Limits, Request, Result, Status


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt."""

    name: str
    held: bool
    """Whether the sandbox did what it must."""
    found: str
    """What happened."""


INSIDE = '''
import ctypes, errno, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    """Return the name of the error, or "done"."""
    if getattr(libc, name)(*arguments) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]

def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def environment():
    print(len(open("/proc/1/environ").read()))

def forks():
    children = 0
    try:
        while children < 100:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            children += 1
    except OSError:
        pass
    return children

def socket_of(family):
    return attempt(lambda: socket.socket(family, socket.SOCK_STREAM))

secret = ("/etc/shadow", "/etc/passwd", "/root", "/home", "/sys", "/run", "/var")
print({
    "network": socket_of(socket.AF_INET),
    "vsock": socket_of(40),
    "host files": [path for path in secret if os.path.lexists(path)],
    "environment": attempt(environment),
    "device write": attempt(lambda: open("/dev/x", "w")),
    "root write": attempt(lambda: open("/x", "w")),
    "namespaces": call("unshare", 0x10000000),
    "pidfd": call("syscall", 434, 1, 0),
    "clock": attempt(lambda: time.clock_settime(time.CLOCK_REALTIME, 0)),
    "forks": forks(),
})
'''
REFUSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "ENOSPC", "EAFNOSUPPORT"}
HUNGRY = """
import os, time
for _ in range(3):
    if not os.fork(): break
kept = bytearray(30 * 2**20)
time.sleep(20)
"""
FLOOD = "import sys\nwhile True: sys.stdout.write('x' * 4096)"
ECHO = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
DAEMON = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(600)
else:
    os.wait()
    print(os.stat("/proc/self/ns/pid").st_ino)
"""


def require(executor: Executor) -> None:
    """Raise SandboxError unless boxes start and every attempt fails to break one.

    For what will run model-written programs in bulk: it should not start where it could only fail,
    or where a program could do harm.
    """
    broken = [f"{probe.name} ({probe.found})" for probe in run_probes(executor) if not probe.held]
    if broken:
        raise SandboxError(
            f"found a sandbox that does not hold: {', '.join(broken)}; run programs on another "
            "machine, and please report this with the output of `openzaya doctor --json`"
        )


def run_probes(executor: Executor) -> list[Probe]:
    """Make every attempt; raises SandboxError where no box starts at all."""
    return [
        *inside(executor),
        memory(executor),
        output(executor),
        stdin(executor),
        daemon(executor),
    ]


def inside(executor: Executor) -> list[Probe]:
    """Make the attempts that a program can judge itself."""
    result = executor.run(Request(source=INSIDE))
    if result.status is not Status.OK:
        return [Probe("probes", held=False, found=told(result))]
    found = ast.literal_eval(result.stdout.decode())
    judges: dict[str, Callable[[object], bool]] = {
        "host files": lambda seen: seen == [],
        "forks": lambda count: count in range(1, 16),
    }
    return [
        Probe(name, held=judges.get(name, REFUSED.__contains__)(what), found=str(what))
        for name, what in found.items()
    ]


def told(result: Result) -> str:
    """Return what is worth showing of a result."""
    text = result.stderr.decode(errors="replace").strip().splitlines()
    return " ".join([str(result.status), result.reason, *text[-1:]])


def memory(executor: Executor) -> Probe:
    """Use too much memory, each process within its own limit."""
    result = executor.run(Request(source=HUNGRY, limits=Limits(memory_bytes=64 * MIB, wall_s=30)))
    return Probe("memory", held=result.status is Status.MEMORY, found=told(result))


def output(executor: Executor) -> Probe:
    """Write without end."""
    result = executor.run(Request(source=FLOOD, limits=Limits(output_bytes=MIB)))
    held = result.status is Status.OUTPUT and len(result.stdout) == MIB
    return Probe("output", held=held, found=told(result))


def stdin(executor: Executor) -> Probe:
    """Send half a megabyte through and compare."""
    data = bytes(range(256)) * 2048
    result = executor.run(Request(source=ECHO, stdin=data))
    return Probe("stdin", held=result.stdout == data, found=told(result))


def daemon(executor: Executor) -> Probe:
    """Leave a daemon behind and look for it on the host."""
    result = executor.run(Request(source=DAEMON, limits=Limits(wall_s=30)))
    if result.status is not Status.OK:
        return Probe("survivor", held=False, found=told(result))
    left = processes_in(int(result.stdout))
    return Probe("survivor", held=not left, found=f"{len(left)} left")


def processes_in(namespace: int) -> list[int]:
    """Return the processes of this machine in a process namespace, by its number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            number = path.stat().st_ino
        except OSError:  # ended, or another user's
            continue
        if number == namespace:
            found.append(int(path.parts[2]))
    return found
