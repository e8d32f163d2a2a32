"""What a hostile program is: its text, and the only ways its run may end."""

from dataclasses import dataclass, field

from openzaya.sandbox.executor import Limits, Request, Status

TOOLS = '''
import ctypes, errno, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    """Make a system call; return the name of its error, or "done"."""
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if libc.syscall(ctypes.c_long(number), *arguments) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]

def attempt(action, *arguments):
    """Call something; return the name of its error, or "done"."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
'''
REFUSALS = frozenset(
    ("EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "ENOSPC", "ENXIO", "EINVAL", "EAFNOSUPPORT")
)
"""What a refused attempt may say."""
PATIENT = Limits(cpu_s=5, wall_s=60)
"""Enough on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One program."""

    name: str
    source: str
    ends: tuple[Status, ...] = (Status.OK,)
    """The statuses that are right."""
    tools: bool = False
    """Whether TOOLS comes before it."""
    refused: bool = False
    """Whether all words that it prints must be refusals."""
    prints: bytes | None = None
    """All of its stdout, where that is certain."""
    code: int | None = None
    signal: int | None = None
    most_wall_s: float = 60.0
    """Seconds on the clock that its end may take on a busy machine."""
    language: str = "python"
    stdin: bytes = b""
    fetch: tuple[str, ...] = ()
    fetched: dict[str, bytes] = field(default_factory=dict)
    """Exactly what must come back of `fetch`."""
    limits: Limits = PATIENT

    @property
    def request(self) -> Request:
        """The program as it is sent."""
        return Request(
            source=TOOLS + self.source if self.tools else self.source,
            language=self.language,
            stdin=self.stdin,
            fetch=self.fetch,
            limits=self.limits,
        )
