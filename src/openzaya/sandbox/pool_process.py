"""One worker of a pool, seen from its owner: start it, talk to it, kill it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from openzaya.core.errors import RequestError
from openzaya.sandbox import pool_worker
from openzaya.sandbox.pool_worker import HEADER

Frame = dict[str, object]
BURIAL_S = 10.0
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    # one thread each: a pool has a worker per core, and every thread's stack costs address space
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that a worker sees of the environment."""


class WorkerLost(Exception):
    """The worker ended, or broke the protocol, where a frame was due."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.signal = number
        """The signal that ended it, 0 for none."""


def encode(frame: object) -> bytes:
    """Return the JSON of a frame. Raises RequestError for what JSON cannot hold."""
    try:
        return json.dumps(frame, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"the arguments are no JSON: {error}; pass numbers, strings, lists and dicts"
        ) from error


class WorkerProcess:
    """One process that calls functions, one after the other."""

    def __init__(self, *, longest_frame: int) -> None:
        """Start it; it waits for its settings and then says whether it is ready. Raises OSError."""
        self.calls = 0
        """Calls that it has answered."""
        self._longest_frame = longest_frame
        self._channel, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(Path(pool_worker.__file__).resolve())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def exchange(self, request: bytes, deadline_s: float) -> Frame:
        """Send one frame and return the next. Raises TimeoutError and WorkerLost."""
        self._write(request, deadline_s)
        return self.receive(deadline_s)

    def receive(self, deadline_s: float) -> Frame:
        """Return the next frame. Raises TimeoutError at the deadline, WorkerLost at its end."""
        (length,) = HEADER.unpack(self._read(HEADER.size, deadline_s))
        if length > self._longest_frame:
            raise WorkerLost(f"it sent a frame of {length} bytes")
        try:
            frame = json.loads(self._read(length, deadline_s))
        except (ValueError, RecursionError) as error:
            raise WorkerLost(f"it sent what is no JSON: {error}") from error
        if not isinstance(frame, dict):
            raise WorkerLost("it sent no frame")
        return cast("dict[str, Any]", frame)

    def kill(self) -> None:
        """Kill it and its children, now; harmless when it has ended."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            except PermissionError:  # the group is gone on other kernels than Linux
                self._process.kill()

    def bury(self) -> None:
        """Kill it, wait for its end and close the channel."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: nothing more can be done
            self._process.wait(BURIAL_S)
        self._channel.close()

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used since its start; 0 where the kernel does not say."""
        try:
            words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(words[11]) + int(words[12])) / float(os.sysconf("SC_CLK_TCK"))

    def _write(self, body: bytes, deadline_s: float) -> None:
        self._channel.settimeout(max(0.001, deadline_s - time.monotonic()))
        try:
            self._channel.sendall(HEADER.pack(len(body)) + body)
        except (BrokenPipeError, ConnectionResetError):
            raise self._lost() from None

    def _read(self, length: int, deadline_s: float) -> bytes:
        """Read so many bytes, no more."""
        body = bytearray()
        while len(body) < length:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._channel.settimeout(left_s)
            try:
                part = self._channel.recv(length - len(body))
            except ConnectionResetError:
                part = b""
            if not part:
                raise self._lost()
            body += part
        return bytes(body)

    def _lost(self) -> WorkerLost:
        """Return the error that says how it ended."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerLost("it closed its channel and was killed")
        if code >= 0:
            return WorkerLost(f"it ended with exit code {code}")
        return WorkerLost(f"it was ended by signal {-code}", -code)
