"""What it means to run an untrusted program: a request, its limits, a result.

A program's expected output is no part of a request: it never enters a sandbox, and who judges the
result compares outside. Every run gets a fresh box; nothing of one run is seen by the next.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from threading import Event
from typing import Self

from openzaya.core.errors import RequestError, SandboxError

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
    """CPU seconds of all its processes together. Those of a child that lives a hundredth of a
    second may be lost if its parent ignores SIGCHLD: then `wall_s` times processors bounds them."""
    wall_s: float | None = None
    """Seconds on the clock; None: twice the CPU limit and one more."""
    memory_bytes: int = 512 * MIB
    """Resident memory of all its processes together, with what may wait in its sockets (256 KiB
    each), and address space of each."""
    processes: int | None = None
    """Processes and threads alive at once; None: the language's own, 16 for Python and 1 for
    compiled programs, which then get a large stack."""
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
    stop: Event | None = field(default=None, compare=False)
    """Set, from any thread, it ends a run that nobody wants any more: INFRA. A foreign server is
    only hung up on."""

    @property
    def is_stopped(self) -> bool:
        """Whether nobody wants the run any more."""
        return self.stop is not None and self.stop.is_set()


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


BACKENDS = {
    "bwrap": ("openzaya.sandbox.bwrap", "BwrapExecutor"),
    "zygote": ("openzaya.sandbox.zygote", "ZygoteExecutor"),
    "http": ("openzaya.sandbox.http", "HttpExecutor"),
    "none": ("openzaya.sandbox.unsafe", "UnsafeExecutor"),
}
"""Module and class of each backend."""


class Executor(ABC):
    """Runs programs; safe to call from several threads at once."""

    @abstractmethod
    def run(self, request: Request) -> Result:
        """Run one program to its end.

        Raises SandboxError where no sandbox works on this machine, and RequestError for a request
        that no sandbox could run (unknown language, bad file name, limits out of range).
        """

    @abstractmethod
    def close(self) -> None:
        """End what is kept between runs; running programs are killed."""

    def run_all(self, requests: Sequence[Request]) -> list[Result]:
        """Run several, `num_slots()` of them at once; results in the order of requests."""
        if len(requests) < 2:
            return [self.run(request) for request in requests]
        with ThreadPoolExecutor(max_workers=min(num_slots(), len(requests))) as threads:
            return list(threads.map(self.run, requests))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def default(backend: str = "bwrap", *, unsafe: bool = False) -> "Executor":
        """Return an executor of this machine, or for "http" of the server in OPENZAYA_SANDBOX_URL.

        "none" is no sandbox at all and wants `unsafe=True`. Raises RequestError for a backend that
        does not exist, and SandboxError where it cannot work.
        """
        if backend not in BACKENDS:
            raise RequestError(f"found backend {backend!r}; expected one of {', '.join(BACKENDS)}")
        if backend == "none" and not unsafe:
            raise SandboxError(
                'backend "none" runs programs with your rights, files and network; it is there '
                "for machines of no value only, and then wants unsafe=True"
            )
        module, name = BACKENDS[backend]  # imported when asked for: backends import this module
        executor: Executor = getattr(import_module(module), name)()
        return executor


def num_cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_slots() -> int:
    """Return how many boxes are worth having at once: one more than there are cores.

    Making and ending a box waits for the kernel a few times, for a fifth of a short run.
    """
    return num_cores() + 1
