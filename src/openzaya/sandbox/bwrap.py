"""The default backend: one fresh bubblewrap box for every run.

A run is five pipes and one process of the spawner's. bubblewrap starts with an empty environment
(its own is what a program would find in /proc/1/environ), as a user that owns nothing if we are
root, builds the box, loads the system-call filter and becomes our supervisor, which starts the
program.
"""

import functools
import marshal
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox import box, checks, headers, languages, protocol, seccomp, spawner
from openzaya.sandbox.compiler import Compiler
from openzaya.sandbox.exchange import Bounds, Exchange, exchange
from openzaya.sandbox.executor import Executor, Request, Result, Status, num_slots
from openzaya.sandbox.interpreter import Interpreter, find_interpreter
from openzaya.sandbox.languages import Language
from openzaya.sandbox.launcher import Launcher, kill
from openzaya.sandbox.remedies import remedy
from openzaya.sandbox.users import BOX_ID, Identity, identity

STARTUP_S = 30.0
"""Seconds beyond a run's own that making and ending its box may take."""
MakeLauncher = Callable[[Interpreter, Identity], Launcher]


class BwrapExecutor(Executor):
    """Runs each program in a bubblewrap box of its own."""

    name = "bwrap"

    def __init__(self, *, uid: int = BOX_ID):
        """Find what boxes need; raises SandboxError if this machine lacks it.

        Root runs boxes as user and group `uid`. One box more than cores runs at once; further
        callers wait.
        """
        self.bwrap = box.find_bwrap()
        self.identity: Identity = identity(uid)
        self.interpreter: Interpreter = find_interpreter(self.identity)
        self.slots = threading.BoundedSemaphore(num_slots())
        self.compiler = Compiler(self.run_command, ("-I", headers.INSIDE))
        self.headers: dict[tuple[str, ...], headers.Headers] = {}
        """By compiler and flags."""
        self.closed = threading.Event()
        self.proven = False
        """Whether a box has ever worked here."""
        self.lock = threading.Lock()
        self.launchers: dict[str, Launcher] = {}
        """The processes that start boxes, by backend."""
        self.running: set[int] = set()
        """Descriptors of the bubblewraps that run."""
        self.launcher_of("bwrap", make_spawner)

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
        built = self.compiler.build(request, language)
        if isinstance(built, Result):
            return built
        return self.run_command(request, language, argv, built)

    def close(self) -> None:
        """Refuse further runs and end those that run; their results are INFRA."""
        self.closed.set()
        with self.lock:
            for pidfd in self.running:
                kill_box(pidfd)
            for launcher in self.launchers.values():
                launcher.close()
            self.launchers.clear()
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
            if result.status is Status.INFRA and self.wants(request):
                result = self.attempt(request, order, compiling)
        if result.wall_s > 0:  # a report came, so boxes do start here
            self.proven = True
        elif not self.proven and self.wants(request):
            raise SandboxError(
                f"found that no sandbox works here ({result.reason}); {remedy(result.reason)}"
            )
        return result

    def wants(self, request: Request) -> bool:
        """Say whether a run that failed may be tried again or blamed on the machine."""
        return not (request.is_stopped or self.closed.is_set())

    def attempt(self, request: Request, order: bytes, compiling: bool) -> Result:
        """Make a box, run an order in it, and return how it went."""
        bounds = Bounds(
            output_bytes=request.limits.output_bytes,
            report_bytes=protocol.report_limit(request),
            deadline=time.monotonic() + request.limits.wall_limit_s + STARTUP_S,
            stop=request.stop,
        )
        folder = self.header_folder(request) if compiling else None
        command = self.command(request.limits.tmp_bytes, compiler=compiling, folder=folder)
        message = marshal.dumps(command, protocol.MARSHAL_VERSION)
        content = protocol.framed(self.interpreter.supervisor) + order
        try:
            launcher = self.launcher_of("bwrap", make_spawner)
            with self.rules() as rules, launcher.started(message, rules) as (pidfd, pipes):
                with self.within_reach(pidfd):
                    said = exchange(pipes, request.stdin, content, bounds)
                if said.hung:
                    kill_box(pidfd)
        except (OSError, SandboxError) as error:
            return Result(status=Status.INFRA, backend=self.name, reason=str(error)[:500])
        result = protocol.result(said, request, backend=self.name, policy=self.policy)
        return explain(result, said)

    def launcher_of(self, backend: str, make: MakeLauncher) -> Launcher:
        """Return the process that starts a backend's boxes, or a new one if it has ended."""
        with self.lock:
            if self.closed.is_set():
                raise SandboxError("found a closed executor; make a new one to run more programs")
            found = self.launchers.get(backend)
            if found is not None and not found.is_alive:
                found.close()
                found = None
            if found is None:
                found = self.launchers[backend] = make(self.interpreter, self.identity)
            return found

    @contextmanager
    def within_reach(self, pidfd: int) -> Iterator[None]:
        """Let `close` kill a box while the block runs."""
        with self.lock:
            self.running.add(pidfd)
        if self.closed.is_set():
            kill_box(pidfd)
        try:
            yield
        finally:
            with self.lock:
                self.running.remove(pidfd)

    @contextmanager
    def rules(self) -> Iterator[int]:
        """Yield a descriptor that bubblewrap reads the system-call filter from."""
        handle = os.memfd_create("policy")
        try:
            os.write(handle, seccomp.policy())
            os.lseek(handle, 0, os.SEEK_SET)
            yield handle
        finally:
            os.close(handle)

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
            *("--seccomp", str(spawner.RULES)),
            *box.start(self.interpreter, control=spawner.CONTROL, report=spawner.REPORT),
        )


def make_spawner(interpreter: Interpreter, identity: Identity) -> Launcher:
    """Start what starts bubblewrap; raises SandboxError if this machine cannot run it."""
    text = Path(spawner.__file__).read_text(encoding="utf-8")
    return Launcher(interpreter, identity, f"{text}\nbegin()\n")


def kill_box(pidfd: int) -> None:
    """Kill bubblewrap's box: its process 1, which takes all others along, then bubblewrap."""
    with suppress(OSError, IndexError):
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        pid = info.partition("Pid:")[2].split()[0]
        for inside in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(inside), signal.SIGKILL)
            return
    kill(pidfd)  # no box yet; what bubblewrap has begun dies with it


def explain(result: Result, said: Exchange) -> Result:
    """Add bubblewrap's own words to a result without a report."""
    if result.status is not Status.INFRA or said.report:
        return result
    lines = bytes(said.stderr).decode(errors="replace").strip().splitlines()
    why = lines[-1] if lines else "the box ended without a word"
    return replace(result, reason=f"the box could not start: {why}"[:500])
