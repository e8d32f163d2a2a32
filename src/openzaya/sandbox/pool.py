"""A pool of processes that can be killed, for every function that evaluates model text.

A power tower stops a thread for ever, and no signal handler of Python runs while it does; a
process can be killed. Workers are fresh interpreters (nothing is forked from a process that may
hold threads or torch), with an empty environment. Arguments and results are JSON. This bounds time
and memory of trusted functions on hostile data; hostile *programs* need a sandbox.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from openzaya.core.errors import ConfigError, RequestError, SandboxError
from openzaya.sandbox.pool_process import Frame, WorkerLost, WorkerProcess, encode

MIB = 2**20
START_TRIES = 3
FRAME_ROOM_BYTES = 16 * 2**10
"""Room for what surrounds a result in its frame, and for messages."""


class Ended(StrEnum):
    """How a call ended. Who called decides what that says of the reply."""

    VALUE = "value"
    RAISED = "raised"
    """The function raised, or returned what is no JSON or too long."""
    TIMEOUT = "timeout"
    """Killed at the clock limit or the CPU limit."""
    MEMORY = "memory"
    DIED = "died"
    """The worker crashed, was killed by somebody else, or could not start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one call."""

    ended: Ended
    value: object = None
    message: str = ""
    """What was raised, or which limit was met."""
    wall_s: float = 0.0
    """Seconds from the start of the function; waiting for a worker does not count."""
    cpu_s: float = 0.0
    """CPU seconds of the call; at a time-out those of the whole worker, 0 if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolLimits:
    """What one call may use."""

    wall_s: float = 2.0
    cpu_s: float = 2.0
    """CPU seconds, rounded up to whole ones by the kernel."""
    memory_bytes: int = 512 * MIB
    """Address space of a worker."""
    result_bytes: int = 64 * 2**10
    """Longest result, as JSON; also the longest file that a function may write."""
    argument_bytes: int = 16 * MIB
    """Longest arguments, as JSON."""
    open_files: int = 64
    start_s: float = 30.0
    """Longest start of a worker, and longest import of a function's module."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing can run."""
        for name in ("wall_s", "cpu_s", "start_s", "result_bytes", "argument_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.memory_bytes < 64 * MIB:
            raise ConfigError(
                f"memory_bytes is {self.memory_bytes}, expected at least {64 * MIB}: "
                "an interpreter needs that much"
            )


class Pool:
    """Calls functions in worker processes; safe to use from several threads at once.

    Workers start when they are first needed. A worker that was killed or that crashed is replaced
    at once, in the background.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        limits: PoolLimits | None = None,
        preload: tuple[str, ...] = (),
        packages: tuple[str, ...] = ("openzaya",),
        recycle_calls: int = 1000,
    ) -> None:
        """`workers`: None for one per core. `preload`: modules that every worker imports at start.

        Only functions of `packages` can be called. A worker is replaced after `recycle_calls`.
        """
        self._size = workers or os.cpu_count() or 1
        self._limits = limits or PoolLimits()
        self._preload = preload
        self._packages = packages
        self._recycle_calls = recycle_calls
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._leaving: deque[WorkerProcess] = deque()
        self._waiting = 0
        self._replacements = 0
        self._failure = ""
        self._failures = 0
        self._closed = False
        # Workers die with the thread that started them, so one thread that lives on starts all.
        self._keeper = threading.Thread(target=self._keep, name="openzaya-pool", daemon=True)
        self._keeper.start()

    def call(self, function: str, *arguments: object) -> Outcome:
        """Call "module:name" with JSON arguments and wait for its end.

        Raises RequestError for a function that may not be called or does not exist and for
        arguments that are no JSON, SandboxError when the pool is closed. All else is an `Outcome`.
        """
        module = function.partition(":")[0]
        if module.partition(".")[0] not in self._packages or not function.count(":") == 1:
            raise RequestError(
                f"the pool cannot call {function!r}, expected module:function of "
                f"{' or '.join(self._packages)}"
            )
        request = encode({"function": function, "arguments": arguments})
        if len(request) > self._limits.argument_bytes:
            raise RequestError(
                f"the arguments are {len(request)} bytes of JSON, expected at most "
                f"{self._limits.argument_bytes}; shorten them"
            )
        worker = self._take()
        if worker is None:
            return Outcome(ended=Ended.DIED, message=self._failure)
        healthy = False
        try:
            outcome, healthy = self._ask(worker, request)
        finally:
            self._give_back(worker, healthy)
        return outcome

    def close(self) -> None:
        """Kill all workers; calls that run end as DIED."""
        with self._changed:
            self._closed = True
            self._leaving.extend(self._idle)
            self._idle.clear()
            for worker in self._busy:
                worker.kill()
            self._changed.notify_all()
        self._keeper.join()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that live now."""
        with self._changed:
            return tuple(worker.pid for worker in (*self._idle, *self._busy))

    def _ask(self, worker: WorkerProcess, request: bytes) -> tuple[Outcome, bool]:
        """Return what became of a call, and whether its worker can take another."""
        limits = self._limits
        try:
            first = worker.exchange(request, time.monotonic() + limits.start_s)
        except TimeoutError:
            return Outcome(ended=Ended.DIED, message=f"no start within {limits.start_s:g} s"), False
        except WorkerLost as lost:
            return Outcome(ended=Ended.DIED, message=str(lost)), False
        if first.get("kind") != "started":
            raise RequestError(f"the pool cannot call {first.get('message')}; check its name")
        began = time.monotonic()
        try:
            frame = worker.receive(began + limits.wall_s)
        except TimeoutError:
            cpu_s = worker.cpu_s()
            worker.kill()
            return Outcome(
                ended=Ended.TIMEOUT,
                message=f"killed after {limits.wall_s:g} s on the clock",
                wall_s=time.monotonic() - began,
                cpu_s=cpu_s,
            ), False
        except WorkerLost as lost:
            too_slow = lost.signal == signal.SIGXCPU
            return Outcome(
                ended=Ended.TIMEOUT if too_slow else Ended.DIED,
                message=f"killed after {limits.cpu_s:g} CPU seconds" if too_slow else str(lost),
                wall_s=time.monotonic() - began,
                cpu_s=limits.cpu_s if too_slow else 0.0,
            ), False
        return read_outcome(frame, time.monotonic() - began)

    def _take(self) -> WorkerProcess | None:
        """Return a worker for one call; None when none can be started."""
        with self._changed:
            self._drop_dead()
            self._waiting += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._closed or self._idle or self._failing)
            finally:
                self._waiting -= 1
            if self._closed:
                raise SandboxError("the pool is closed; make another one")
            if not self._idle:
                self._failures = 0  # the next call tries again
                return None
            worker = self._idle.pop()
            self._busy.add(worker)
            return worker

    def _drop_dead(self) -> None:
        """Part with idle workers that somebody else killed, before a call meets one."""
        dead = [worker for worker in self._idle if not worker.is_alive]
        self._idle = [worker for worker in self._idle if worker not in dead]
        self._leaving.extend(dead)

    @property
    def _failing(self) -> bool:
        return self._failures >= START_TRIES

    def _give_back(self, worker: WorkerProcess, healthy: bool) -> None:
        """Keep a worker for the next call, or have it replaced."""
        with self._changed:
            self._busy.discard(worker)
            worker.calls += 1
            if healthy and not self._closed and worker.calls < self._recycle_calls:
                self._idle.append(worker)
            else:
                worker.kill()
                self._leaving.append(worker)
            self._changed.notify_all()

    def _keep(self) -> None:
        """Start the workers that are wanted and bury those that left, until the pool closes."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._leaving or self._wanted)
                leaving = list(self._leaving)
                self._leaving.clear()
                self._replacements += len(leaving)
                if self._closed and not leaving and not self._busy:
                    return
                start = not self._closed and self._wanted
            for worker in leaving:
                worker.bury()
            if start:
                self._replacements = max(0, self._replacements - 1)
                self._start()
            elif self._closed and not leaving:
                time.sleep(0.005)  # busy workers were killed; their callers hand them over

    @property
    def _wanted(self) -> bool:
        """Say whether another worker should start now."""
        if self._failing or len(self._idle) + len(self._busy) >= self._size:
            return False
        return self._replacements > 0 or self._waiting > len(self._idle)

    def _start(self) -> None:
        """Start one worker and put it among the idle ones."""
        limits = self._limits
        worker: WorkerProcess | None = None
        try:
            worker = WorkerProcess(longest_frame=limits.result_bytes + FRAME_ROOM_BYTES)
            frame = worker.exchange(encode(self._setup()), time.monotonic() + limits.start_s)
            failure = "" if frame.get("kind") == "ready" else str(frame.get("message"))
        except (OSError, WorkerLost) as error:  # TimeoutError is an OSError
            failure = str(error) or f"no sign of life within {limits.start_s:g} s"
        if failure and worker is not None:
            worker.kill()
            worker.bury()
        with self._changed:
            if failure:
                self._failures += 1
                self._failure = f"a worker did not start: {failure}"
            elif worker is not None and self._closed:
                self._leaving.append(worker)
            elif worker is not None:
                self._failures = 0
                self._idle.append(worker)
            self._changed.notify_all()

    def _setup(self) -> dict[str, object]:
        """Return the first frame of a worker."""
        limits = self._limits
        return {
            "parent": os.getpid(),
            "path": [path for path in sys.path if os.path.isabs(path)],  # noqa: PTH117
            "preload": self._preload,
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_bytes,
            "result_bytes": limits.result_bytes,
            "open_files": limits.open_files,
        }


def read_outcome(frame: Frame, wall_s: float) -> tuple[Outcome, bool]:
    """Turn a worker's last frame into an outcome, and say whether the worker is still good."""
    try:
        ended = Ended(str(frame["kind"]))
        cpu_s = float(str(frame["cpu_s"]))
    except (KeyError, ValueError):
        return Outcome(ended=Ended.DIED, message="the worker sent nonsense", wall_s=wall_s), False
    outcome = Outcome(
        ended=ended,
        value=frame.get("value"),
        message=str(frame.get("message", "")),
        wall_s=wall_s,
        cpu_s=cpu_s,
    )
    # After a MemoryError the heap may be in pieces, and what raised may hold on to much.
    return outcome, ended in (Ended.VALUE, Ended.RAISED)


_lock = threading.Lock()
_shared: Pool | None = None


def shared_pool() -> Pool:
    """Return the pool that all verifiers of this process share; it starts at the first call."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Pool()
            atexit.register(_close_shared)
        return _shared


def _close_shared() -> None:
    if _shared is not None:
        _shared.close()


def _forget() -> None:
    """In a forked child: its parent's workers are not its own."""
    global _shared, _lock
    _lock = threading.Lock()
    _shared = None


os.register_at_fork(after_in_child=_forget)
