"""The host's half of the conversation with a supervisor: the order in, the report out.

The order says what to run under which limits. The report is one line about the end and then the
files asked for; it is parsed as if an enemy had written it, and one that is not whole means that
our own machinery failed.
"""

import marshal
import math
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from openzaya.sandbox import languages
from openzaya.sandbox.exchange import Exchange
from openzaya.sandbox.executor import MIB, Request, Result, Status
from openzaya.sandbox.languages import Language

MARSHAL_VERSION = 2
"""An old format, so that the box's Python may be older than ours."""
REPORT_BYTES = 65536
"""Most of a report without the files in it."""
STARVED_SHARE = 0.25
"""Of its clock limit: who waited so long for a processor did not have a fair run."""
MEMORY_SHARE, UNUSED_BYTES = 0.9, 16 * MIB
"""A program that fails with so much of its limit in use failed for want of memory: the limit also
counts address space, of which an interpreter has some megabytes that it never touches."""
SIGNALS = 256
"""Queued signals and timers; without a limit of its own a box takes those of all others."""
ENDINGS = ("exit", "wall", "cpu", "memory", "files", "asked")
"""By itself, or by the supervisor for the limit of that name, or because the host asked."""
FILE, PROGRAM = 0o600, 0o700


def order(
    request: Request,
    language: Language,
    *,
    argv: tuple[str, ...],
    program: bytes | None = None,
) -> bytes:
    """Return the order to run `argv`: a compiled `program`, or the request's source itself.

    For a language with a compiler and no program yet, the source is put in its file, for the
    compiler that `argv` starts.
    """
    limits = request.limits
    source = request.source.encode("utf-8", "surrogatepass")
    own = (language.source, source, FILE)
    files = [(name, bytes(content), FILE) for name, content in request.files.items()]
    files.append(own if program is None else (language.program, program, PROGRAM))
    what: dict[str, Any] = {
        "argv": list(argv),
        "python": not language.compiler,
        "source": b"" if language.compiler else source,
        "files": files,
        "fetch": list(request.fetch),
        "fetch_bytes": limits.file_bytes,
        "fetch_room": fetch_room(request),
        "rlimits": rlimits(request, language),
        "wall_s": float(limits.wall_limit_s),
        "cpu_s": float(limits.cpu_s),
        "memory_bytes": limits.memory_bytes,
    }
    return framed(marshal.dumps(what, MARSHAL_VERSION))


def framed(content: bytes) -> bytes:
    """Return `content` with its length before it."""
    return len(content).to_bytes(8, "big") + content


def rlimits(request: Request, language: Language) -> list[tuple[int, int]]:
    """Return the kernel's limits for each process; all but the last also end in a verdict of ours.

    CPU seconds are rounded up and one more: the supervisor's exact sum decides before.
    """
    limits = request.limits
    return [
        (resource.RLIMIT_CPU, int(limits.cpu_s) + 2),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, SIGNALS),
        (resource.RLIMIT_STACK, languages.stack_bytes(language, limits)),
        # the supervisor counts as one
        (resource.RLIMIT_NPROC, languages.processes(language, limits) + 1),
        (resource.RLIMIT_AS, limits.memory_bytes),
    ]


def report_limit(request: Request) -> int:
    """Return the most bytes that a request's report may have."""
    return REPORT_BYTES + fetch_room(request)


def fetch_room(request: Request) -> int:
    """Return the most bytes that all fetched files may have; files with holes could have more."""
    return min(request.limits.tmp_bytes, len(request.fetch) * request.limits.file_bytes)


def result(said: Exchange, request: Request, *, backend: str, policy: str) -> Result:
    """Return how a run went by what came out of its box."""
    said_so = Result(
        status=Status.INFRA,
        stdout=bytes(said.stdout),
        stderr=bytes(said.stderr),
        backend=backend,
        policy=policy,
    )
    try:
        end, files = parse(bytes(said.report), request)
        code = os.waitstatus_to_exitcode(end.status)
    except (ValueError, OverflowError) as error:
        return replace(said_so, reason=f"no report of the run's end ({error})"[:500])
    verdict, reason = judge(
        said, request, ended=end.how, code=code, cpu_s=end.cpu_s, peak=end.peak_bytes
    )
    unfair = end.starved_s > STARVED_SHARE * request.limits.wall_limit_s
    if verdict is Status.TIME_WALL and unfair:
        verdict, reason = Status.INFRA, f"it waited {end.starved_s:.1f} s for a processor"
    by_itself = end.how == "exit"
    return replace(
        said_so,
        status=verdict,
        exit_code=code if by_itself and code >= 0 else None,
        signal=-code if by_itself and code < 0 else None,
        cpu_s=end.cpu_s,
        wall_s=end.wall_s,
        peak_bytes=end.peak_bytes,
        files=files,
        reason=reason,
    )


def judge(
    said: Exchange, request: Request, *, ended: str, code: int, cpu_s: float, peak: int
) -> tuple[Status, str]:
    """Return the status, and which limit decided it; the first that applies, in this order."""
    limits = request.limits
    if said.overflow:
        return Status.OUTPUT, f"more than {limits.output_bytes} bytes on {said.overflow}"
    if ended == "asked":
        return Status.INFRA, "the box was told to end"
    if ended == "cpu" or cpu_s > limits.cpu_s:
        return Status.TIME_CPU, f"more than {limits.cpu_s:g} s of CPU time"
    if ended != "exit":
        return {
            "wall": (Status.TIME_WALL, f"more than {limits.wall_limit_s:g} s on the clock"),
            "memory": (Status.MEMORY, f"more than {limits.memory_bytes} bytes of memory"),
            "files": (Status.MEMORY, "too much in the working folder"),
        }[ended]
    if code == 0:
        return Status.OK, ""
    if peak > MEMORY_SHARE * limits.memory_bytes - UNUSED_BYTES:
        return Status.MEMORY, f"failed with {peak} of {limits.memory_bytes} bytes of memory in use"
    if code == -signal.SIGSYS:
        return Status.POLICY, "a system call of another architecture"
    if code < 0:
        return Status.SIGNAL, f"ended by signal {-code}"
    return Status.EXIT, f"ended with code {code}"


@dataclass(frozen=True, slots=True)
class End:
    """The first line of a report."""

    how: str
    """Why the program ended: one of ENDINGS."""
    status: int
    """As wait(2) has it; 0 if the supervisor ended the program."""
    cpu_s: float
    wall_s: float
    peak_bytes: int
    starved_s: float


def parse(report: bytes, request: Request) -> tuple[End, dict[str, bytes]]:
    """Return the end and the files in a report; ValueError if it is not whole."""
    head, newline, rest = report.partition(b"\n")
    words = head.decode("ascii").split()
    if not newline or len(words) != 6 or words[0] not in ENDINGS:
        raise ValueError("the first line is missing" if not report else f"it begins {head!r:.80}")
    cpu_s, wall_s, starved_s = (float(words[place]) for place in (2, 3, 5))
    end = End(words[0], int(words[1]), cpu_s, wall_s, int(words[4]), starved_s)
    if not all(0 <= number < math.inf for number in (cpu_s, wall_s, starved_s)):
        raise ValueError(f"it begins {head!r:.80}")
    return end, dict(frames(rest, request.fetch))


def frames(rest: bytes, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files in a report; ValueError if one is cut."""
    while rest != b"end\n":
        head, newline, rest = rest.partition(b"\n")
        place, size = map(int, head.split())
        if not newline or not 0 <= place < len(names) or not 0 <= size <= len(rest):
            raise ValueError("a file in it is cut")
        yield names[place], rest[:size]
        rest = rest[size:]
