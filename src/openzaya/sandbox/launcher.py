"""The host's side of the process that starts boxes: sends it requests, gets process handles back.

Two programs play its part, `spawner` for bubblewrap and `zygote_launcher` for the zygote. Both run
as the user of boxes in a fresh interpreter with a constant environment: none was ever a copy of
this process, so nothing of ours is in the memory of a box.
"""

import marshal
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from openzaya.core.errors import SandboxError
from openzaya.sandbox import box, protocol, spawner
from openzaya.sandbox.exchange import Pipes
from openzaya.sandbox.interpreter import FLAGS, Interpreter
from openzaya.sandbox.users import Identity

LAUNCH_S = 30.0
REPLY_S = 10.0
REAP_S = 5.0
COLLECT_MS = 1


class Launcher:
    """The process that starts boxes, seen from the host; safe to use from several threads."""

    def __init__(self, interpreter: Interpreter, identity: Identity, boot: str, *words: Any):
        """Start it and wait until it is ready; raises SandboxError with its reason if it is not.

        `boot` is its first code, which finds `words` marshalled on its stdin.
        """
        content = b"".join(marshal.dumps(word, protocol.MARSHAL_VERSION) for word in words)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = subprocess.Popen(
                [interpreter.path, *FLAGS, "-c", boot, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # what programs find on these descriptors are pipes, too
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=box.ENVIRONMENT,
                cwd="/",
                umask=0o022,
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
        if said != spawner.READY:
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
    def started(self, message: bytes, *more: int) -> Iterator[tuple[int, Pipes]]:
        """Start a box; yield a descriptor of its process and our ends of its pipes.

        `more` are descriptors that the request is about. The box has ended when the block has.
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
            handles += more
            socket.send_fds(self.channel, [message], handles)
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


def piped(ours: ExitStack, theirs: ExitStack, *, into_box: bool) -> tuple[int, int]:
    """Return our end and the box's end of a new pipe; each stack closes its own."""
    ends = os.pipe()
    our, their = (ends[1], ends[0]) if into_box else ends
    ours.callback(os.close, our)
    theirs.callback(os.close, their)
    return our, their


def read_pidfd(control: socket.socket) -> int:
    """Return the descriptor of a box's first process; raises SandboxError if there is none."""
    control.settimeout(REPLY_S)
    try:
        said, handles, _, _ = socket.recv_fds(control, 512, 1)
    except OSError as error:
        raise SandboxError(f"no word from the launcher of boxes: {error}") from error
    if said != spawner.STARTED or len(handles) != 1:
        why = said.decode(errors="replace") or "the launcher has ended"
        raise SandboxError(f"the box could not start: {why}")
    os.set_inheritable(handles[0], False)
    return handles[0]


def kill(pidfd: int) -> None:
    """Kill a process."""
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


def has_ended(pidfd: int, within_s: float) -> bool:
    """Wait for a process; say whether it has ended within a time."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(within_s * 1000))
