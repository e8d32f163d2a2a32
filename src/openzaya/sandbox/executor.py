"""What it means to run an untrusted program: a request, its limits, a result.

A program's expected output is no part of a request: it never enters a sandbox, and who judges the
result compares outside. Every run gets a fresh box; nothing of one run is seen by the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

MIB = 2**20


class Status(StrEnum):
    """How a run ended."""

    OK = "ok"
    """The program ended by itself with exit code 0, inside all limits."""
    EXIT = "exit"
    """It ended by itself with another exit code."""
    SIGNAL = "signal"
    """A signal ended it that no limit of ours sent: a crash."""
    TIME_CPU = "time_cpu"
    TIME_WALL = "time_wall"
    MEMORY = "memory"
    OUTPUT = "output"
    """It wrote more to a stream than the limit allows."""
    COMPILE = "compile"
    """The compiler refused the source; `stderr` holds what it said."""
    POLICY = "policy"
    """A system call that the policy kills for."""
    INFRA = "infra"
    """Our own failure: says nothing about the program. `reason` tells what failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one run may use."""

    cpu_s: float = 10.0
    """CPU seconds of all its processes together."""
    wall_s: float | None = None
    """Seconds on the clock; None: twice the CPU limit and one more."""
    memory_bytes: int = 512 * MIB
    """Resident memory of all its processes together, and address space of each."""
    processes: int = 16
    """Processes and threads alive at once."""
    file_bytes: int = 16 * MIB
    """Size of any file it writes."""
    tmp_bytes: int = 64 * MIB
    """Size of its only writable folder."""
    open_files: int = 64
    output_bytes: int = MIB
    """Size of stdout, and of stderr; a program that writes more is stopped."""

    @property
    def wall_limit_s(self) -> float:
        """The clock limit, its default filled in."""
        return 2 * self.cpu_s + 1 if self.wall_s is None else self.wall_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One program to run."""

    source: str
    language: str = "python"
    """A key of `languages.LANGUAGES`: "python" or "cpp"."""
    stdin: bytes = b""
    arguments: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files it finds in its working folder, by name; names hold no folder."""
    fetch: tuple[str, ...] = ()
    """Names of files in its working folder to bring back; only plain files come."""
    limits: Limits = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How it went."""

    status: Status
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    signal: int | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What was fetched."""
    backend: str = ""
    """Which backend ran it; "none" is no sandbox at all."""
    policy: str = ""
    """Fingerprint of the rules it ran under."""
    reason: str = ""
    """For people: which limit, or what failed."""


class Executor(Protocol):
    """Runs programs; safe to call from several threads at once."""

    def run(self, request: Request) -> Result:
        """Run one program to its end.

        Raises SandboxError where no sandbox works on this machine, and RequestError for a request
        that no sandbox could run (unknown language, bad file name, limits out of range).
        """
        ...

    def run_all(self, requests: Sequence[Request]) -> list[Result]:
        """Run several, as many at once as there are cores; results in the order of requests."""
        ...

    def close(self) -> None:
        """End what is kept between runs; running programs are killed."""
        ...
