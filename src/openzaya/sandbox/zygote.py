"""The fast backend: boxes are forked from a launcher that has Python and the usual imports loaded.

The launcher is a fresh interpreter with a constant environment, started as the user of boxes; it
never was a copy of this process, so nothing of ours is in the memory that programs inherit. What
runs inside a box, the limits, the report and its reading are those of the bubblewrap backend;
compilers run under bubblewrap.
"""

import functools
import marshal
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from openzaya.core.errors import SandboxError
from openzaya.sandbox import box, protocol, seccomp, zygote_launcher
from openzaya.sandbox.bwrap import REAP_S, STARTUP_S, BwrapExecutor, explain, has_ended, piped
from openzaya.sandbox.exchange import Bounds, Pipes, exchange
from openzaya.sandbox.executor import Request, Result, Status
from openzaya.sandbox.interpreter import FLAGS, Interpreter
from openzaya.sandbox.users import BOX_ID, Identity

BOOT = """
import marshal, sys
n = {"__name__": "launcher", "__builtins__": __builtins__}
exec(compile(marshal.load(sys.stdin.buffer), "<string>", "exec"), n)
with n["begin"]():
    exec(__import__("sys").__dict__.pop("program"))
"""
"""The first code of a launcher; in a box its last line is the program."""
MODULES = (
    *("array", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "heapq", "io", "itertools", "json", "math"),
    *("operator", "os", "queue", "random", "re", "statistics", "string", "sys", "threading"),
    *("time", "traceback", "typing"),
)
"""What every launcher imports once, so that programs find it there."""
LAUNCH_S = 30.0
REPLY_S = 10.0
COLLECT_MS = 1


class ZygoteExecutor(BwrapExecutor):
    """Runs each program in a box forked from a launcher."""

    name = "zygote"

    def __init__(self, *, uid: int = BOX_ID, slots: int | None = None):
        """Start the launcher; raises SandboxError if this machine cannot run one."""
        super().__init__(uid=uid, slots=slots)
        self.launcher_lock = threading.Lock()
        self.launcher: Launcher | None = Launcher(self.interpreter, self.identity)
        self.proven = True  # the launcher stands in namespaces like those of a box

    @functools.cached_property
    def policy(self) -> str:
        """Fingerprint of all rules that boxes run under."""
        rules = repr((setup(self.interpreter, self.identity), text()))
        return sha256(rules.encode()).hexdigest()[:16]

    def close(self) -> None:
        """End the launcher and with it every box."""
        super().close()
        with self.launcher_lock:
            if self.launcher is not None:
                self.launcher.close()
            self.launcher = None

    def attempt(self, request: Request, order: bytes, compiling: bool) -> Result:
        """Make a box, run an order in it, and return how it went."""
        if compiling:
            return super().attempt(request, order, compiling)
        bounds = Bounds(
            output_bytes=request.limits.output_bytes,
            report_bytes=protocol.report_limit(request),
            deadline=time.monotonic() + request.limits.wall_limit_s + STARTUP_S,
        )
        try:
            launcher = self.living_launcher()
            with launcher.started(request.limits.tmp_bytes) as (pidfd, pipes):
                said = exchange(pipes, request.stdin, order, bounds)
                if said.hung:
                    kill(pidfd)
        except (OSError, SandboxError) as error:
            return Result(status=Status.INFRA, backend=self.name, reason=str(error)[:500])
        result = protocol.result(said, request, backend=self.name, policy=self.policy)
        return explain(result, said)

    def living_launcher(self) -> "Launcher":
        """Return the launcher, or a new one if it has ended."""
        with self.launcher_lock:
            if self.closed.is_set():
                raise SandboxError("found a closed executor; make a new one to run more programs")
            if self.launcher is not None and not self.launcher.is_alive:
                self.launcher.close()
                self.launcher = None
            if self.launcher is None:
                self.launcher = Launcher(self.interpreter, self.identity)
            return self.launcher


class Launcher:
    """The process that forks boxes, seen from the host; safe to use from several threads."""

    def __init__(self, interpreter: Interpreter, identity: Identity):
        """Start it and wait until it is ready; raises SandboxError with its reason if it is not."""
        words = (text(), setup(interpreter, identity))
        content = b"".join(marshal.dumps(word, protocol.MARSHAL_VERSION) for word in words)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = subprocess.Popen(
                [interpreter.path, *FLAGS, "-c", BOOT, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # what programs find on these descriptors are pipes, too
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=box.ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                **identity.drop(),
            )
        except OSError as error:
            self.channel.close()
            raise SandboxError(f"the launcher of boxes did not start: {error}") from error
        finally:
            theirs.close()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(content)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for its first word; raises SandboxError with any other word."""
        self.channel.settimeout(LAUNCH_S)
        try:
            said = self.channel.recv(4096)
        except OSError as error:
            said = str(error).encode()
        if said != zygote_launcher.READY:
            self.process.kill()
            assert self.process.stdout is not None
            why = said or self.process.stdout.read()[-500:] or b"it ended without a word"
            self.close()
            raise SandboxError(
                f"the launcher of boxes did not start: {why.decode(errors='replace').strip()}; "
                "`openzaya doctor` says what this machine forbids; the bwrap backend may work"
            )

    @property
    def is_alive(self) -> bool:
        """Whether it can take requests."""
        return self.process.poll() is None

    @contextmanager
    def started(self, tmp_bytes: int) -> Iterator[tuple[int, Pipes]]:
        """Start a box; yield a descriptor of its process and our ends of its pipes.

        The box has ended when the block has.
        """
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, their_stdin = piped(ours, theirs, into_box=True)
            stdout, their_stdout = piped(ours, theirs, into_box=False)
            stderr, their_stderr = piped(ours, theirs, into_box=False)
            report, their_report = piped(ours, theirs, into_box=False)
            control, inside = socket.socketpair()
            ours.callback(control.close)
            theirs.callback(inside.close)
            handles = [their_stdin, their_stdout, their_stderr, their_report, inside.fileno()]
            socket.send_fds(self.channel, [b"%d" % tmp_bytes], handles)
            theirs.close()
            pidfd = read_pidfd(control)
            ours.pop_all()  # from here on the exchange closes them
        pipes = Pipes(
            stdin=stdin, control=control.detach(), stdout=stdout, stderr=stderr, report=report
        )
        try:
            yield pidfd, pipes
        finally:
            collect(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """End it, and with it every box; wait until it is gone."""
        self.channel.close()
        try:
            self.process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def read_pidfd(control: socket.socket) -> int:
    """Return the descriptor of a box's first process; raises SandboxError if there is none."""
    control.settimeout(REPLY_S)
    try:
        said, handles, _, _ = socket.recv_fds(control, 512, 1)
    except OSError as error:
        raise SandboxError(f"no word from the launcher of boxes: {error}") from error
    if said != zygote_launcher.STARTED or len(handles) != 1:
        why = said.decode(errors="replace") or "the launcher has ended"
        raise SandboxError(f"the box could not start: {why}")
    os.set_inheritable(handles[0], False)
    return handles[0]


def kill(pidfd: int) -> None:
    """Kill the first process of a box, which takes all others along."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def collect(pidfd: int) -> None:
    """Wait until nothing is left of a box; kill it if its end takes long."""
    if not has_ended(pidfd, REAP_S):
        kill(pidfd)
        has_ended(pidfd, REAP_S)
    collected = select.poll()
    collected.register(pidfd, 0)  # new kernels hang up when its launcher has collected it
    deadline = time.monotonic() + REAP_S
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            signal.pidfd_send_signal(pidfd, 0)
            collected.poll(COLLECT_MS)


@functools.cache
def text() -> str:
    """Return the launcher's program."""
    return Path(zygote_launcher.__file__).read_text(encoding="utf-8")


def setup(interpreter: Interpreter, identity: Identity) -> dict[str, Any]:
    """Return what a launcher must know: what boxes see, who they are, what they may call."""
    links = list(box.DEVICE_LINKS)
    binds = box.outermost(box.wanted(interpreter, compiler=False))
    for name in ("/lib", "/lib64"):
        if Path(name).is_symlink():
            links.append((str(Path(name).readlink()), name))
        elif Path(name).is_dir():
            binds.append(name)
    return {
        "binds": binds,
        "devices": [f"/dev/{name}" for name in box.DEVICES],
        "hidden": box.packages(interpreter),
        "inside_id": int(box.INSIDE_ID),
        "links": links,
        "modules": MODULES,
        "outside": (identity.uid, identity.gid),
        "policy": seccomp.policy(),
        "supervisor": interpreter.supervisor,
    }
