"""The default backend: one fresh bubblewrap box for every run.

A run is five pipes and one child. bubblewrap starts with an empty environment (its own is what a
program would find in /proc/1/environ), as a user that owns nothing if we are root, builds the box,
loads the system-call filter and becomes our supervisor, which starts the program.
"""

import functools
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox import box, checks, headers, languages, protocol, seccomp
from openzaya.sandbox.compiler import Compiler
from openzaya.sandbox.exchange import Bounds, Exchange, Pipes, exchange
from openzaya.sandbox.executor import Executor, Request, Result, Status, num_cores
from openzaya.sandbox.interpreter import Interpreter, find_interpreter
from openzaya.sandbox.languages import Language
from openzaya.sandbox.remedies import remedy
from openzaya.sandbox.users import BOX_ID, Identity, identity

STARTUP_S = 30.0
"""Seconds beyond a run's own that making and ending its box may take."""
REAP_S = 5.0


class BwrapExecutor(Executor):
    """Runs each program in a bubblewrap box of its own."""

    name = "bwrap"

    def __init__(self, *, uid: int = BOX_ID, slots: int | None = None):
        """Find what boxes need; raises SandboxError if this machine lacks it.

        Root runs boxes as user and group `uid`. At most `slots` boxes run at once (default: one
        for each core); further callers wait.
        """
        self.bwrap = box.find_bwrap()
        self.identity: Identity = identity(uid)
        self.interpreter: Interpreter = find_interpreter(self.identity)
        self.slots = threading.BoundedSemaphore(slots or num_cores())
        self.compiler = Compiler(self.run_command, ("-I", headers.INSIDE))
        self.headers: dict[tuple[str, ...], headers.Headers] = {}
        """By compiler and flags."""
        self.closed = threading.Event()
        self.proven = False
        """Whether a box has ever worked here."""
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen[bytes]] = set()

    @functools.cached_property
    def policy(self) -> str:
        """Fingerprint of all rules that boxes run under."""
        rules = repr((self.command(64, compiler=False), self.interpreter.supervisor))
        return sha256(rules.encode() + seccomp.policy()).hexdigest()[:16]

    def run(self, request: Request) -> Result:
        """Run one program to its end; see Executor.run."""
        language = checks.check(request)
        if self.closed.is_set():
            raise SandboxError("found a closed executor; make a new one to run more programs")
        argv = (language.path, *request.arguments)
        if not language.compiler:
            return self.run_command(request, language, argv, None)
        built = self.compiler.build(request.source, language)
        if isinstance(built, Result):
            return built
        return self.run_command(request, language, argv, built)

    def close(self) -> None:
        """Refuse further runs and kill those that run; their results are INFRA."""
        self.closed.set()
        with self.lock:
            for child in self.running:
                kill(child)
            for made in self.headers.values():
                made.close()

    def run_command(
        self, request: Request, language: Language, argv: tuple[str, ...], program: bytes | None
    ) -> Result:
        """Run a command in a fresh box; a run that never got its share of a processor, twice."""
        order = protocol.order(request, language, argv=argv, program=program)
        compiling = bool(language.compiler) and program is None
        with self.slots:
            result = self.attempt(request, order, compiling)
            if result.status is Status.INFRA and not self.closed.is_set():
                result = self.attempt(request, order, compiling)
        if result.wall_s > 0:  # a report came, so boxes do start here
            self.proven = True
        elif not self.proven and not self.closed.is_set():
            raise SandboxError(
                f"found that no sandbox works here ({result.reason}); {remedy(result.reason)}"
            )
        return result

    def attempt(self, request: Request, order: bytes, compiling: bool) -> Result:
        """Make a box, run an order in it, and return how it went."""
        bounds = Bounds(
            output_bytes=request.limits.output_bytes,
            report_bytes=protocol.report_limit(request),
            deadline=time.monotonic() + request.limits.wall_limit_s + STARTUP_S,
        )
        folder = self.header_folder(request) if compiling else None
        command = self.command(request.limits.tmp_bytes, compiler=compiling, folder=folder)
        content = protocol.framed(self.interpreter.supervisor) + order
        try:
            with self.started(command) as (child, pipes):
                said = exchange(pipes, request.stdin, content, bounds)
                if said.hung:
                    kill(child)
        except OSError as error:
            return Result(status=Status.INFRA, backend=self.name, reason=str(error))
        result = protocol.result(said, request, backend=self.name, policy=self.policy)
        return explain(result, said)

    def header_folder(self, request: Request) -> str | None:
        """Return the host's folder of headers that a source is compiled with, if there is one."""
        if headers.HEADER not in request.source:
            return None
        flags = languages.find(request.language).compiler
        with self.lock:
            if flags not in self.headers:
                self.headers[flags] = headers.Headers(flags)
            return self.headers[flags].folder()

    @functools.lru_cache(maxsize=64)  # noqa: B019 an executor lives as long as its cache is of use
    def command(
        self, tmp_bytes: int, *, compiler: bool, folder: str | None = None
    ) -> tuple[str, ...]:
        """Return the command line of a box, without what differs between runs.

        `folder` is what a compiler's box sees as its folder of precompiled headers.
        """
        return (
            self.bwrap,
            *box.isolation(),
            *box.file_system(self.interpreter, compiler=compiler),
            *(("--ro-bind", folder, headers.INSIDE) if folder else ()),
            *("--size", str(tmp_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"),
        )

    @contextmanager
    def started(self, command: tuple[str, ...]) -> Iterator[tuple[subprocess.Popen[bytes], Pipes]]:
        """Start a box; yield its process and our ends of its pipes; collect it at the end."""
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, their_stdin = piped(ours, theirs, into_box=True)
            control, their_control = piped(ours, theirs, into_box=True)
            stdout, their_stdout = piped(ours, theirs, into_box=False)
            stderr, their_stderr = piped(ours, theirs, into_box=False)
            report, their_report = piped(ours, theirs, into_box=False)
            rules = os.memfd_create("policy")
            theirs.callback(os.close, rules)
            os.write(rules, seccomp.policy())
            os.lseek(rules, 0, os.SEEK_SET)
            inner = box.start(self.interpreter, control=their_control, report=their_report)
            child = subprocess.Popen(
                [*command, "--seccomp", str(rules), *inner],
                stdin=their_stdin,
                stdout=their_stdout,
                stderr=their_stderr,
                pass_fds=(their_control, their_report, rules),
                env={},
                cwd="/",
                start_new_session=True,
                **self.identity.drop(),
            )
            ours.pop_all()  # from here on the exchange closes them
        with self.lock:
            self.running.add(child)
        if self.closed.is_set():
            kill(child)
        try:
            yield (
                child,
                Pipes(stdin=stdin, control=control, stdout=stdout, stderr=stderr, report=report),
            )
        finally:
            with self.lock:
                self.running.remove(child)
            collect(child)


def piped(ours: ExitStack, theirs: ExitStack, *, into_box: bool) -> tuple[int, int]:
    """Return our end and the box's end of a new pipe; each stack closes its own."""
    ends = os.pipe()
    our, their = (ends[1], ends[0]) if into_box else ends
    ours.callback(os.close, our)
    theirs.callback(os.close, their)
    return our, their


def kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a box from outside: its process 1, which takes all others along, then bubblewrap."""
    inside = []
    with suppress(OSError):
        inside = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        for pid in inside:
            os.kill(int(pid), signal.SIGKILL)
    if not inside:  # no box yet; what bubblewrap has begun dies with it
        child.kill()


def collect(child: subprocess.Popen[bytes]) -> None:
    """Wait for bubblewrap's end, which comes after the box's; kill it if that takes long."""
    handle = os.pidfd_open(child.pid)
    try:
        if not has_ended(handle, REAP_S):
            child.kill()
    finally:
        os.close(handle)
    child.wait()


def has_ended(pidfd: int, within_s: float) -> bool:
    """Wait for a process; say whether it has ended within a time."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(within_s * 1000))


def explain(result: Result, said: Exchange) -> Result:
    """Add bubblewrap's own words to a result without a report."""
    if result.status is not Status.INFRA or said.report:
        return result
    lines = bytes(said.stderr).decode(errors="replace").strip().splitlines()
    why = lines[-1] if lines else "the box ended without a word"
    return replace(result, reason=f"the box could not start: {why}"[:500])
