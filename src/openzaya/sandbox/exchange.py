"""Talk to a box through its five pipes at once, within bounds.

Input is written and all output read in one loop, so no program can block by writing much, reading
nothing, or closing a stream. What is kept of a stream never exceeds its limit.
"""

import contextlib
import os
import select
import threading
import time
from dataclasses import dataclass, field

CHUNK_BYTES = 65536
FIRM_S = 2.0
"""Seconds that a box gets to end after it was told to."""
LOOK_S = 0.05
"""Seconds between two looks at whether the run is still wanted."""


@dataclass(kw_only=True, slots=True)
class Pipes:
    """Our ends of a box's pipes."""

    stdin: int
    control: int
    stdout: int
    stderr: int
    report: int


@dataclass(kw_only=True, slots=True)
class Exchange:
    """What came out of a box."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)
    overflow: str = ""
    """The stream that exceeded its limit, if one did."""
    late: bool = False
    """Whether the deadline passed, or nobody wanted it any more, and the box was told to end."""
    hung: bool = False
    """Whether it did not end then; whoever started it must kill it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much of each stream is taken, and for how long."""

    output_bytes: int
    report_bytes: int
    deadline: float
    """On the monotonic clock, in seconds."""
    stop: threading.Event | None = None
    """Set, it tells the box to end."""


def exchange(pipes: Pipes, stdin: bytes, order: bytes, bounds: Bounds) -> Exchange:
    """Feed a box and collect what it says until all its output ends; closes our ends.

    The control pipe stays open until the box should end: closing it is how it is told to.
    """
    with Loop(pipes, stdin, order, bounds) as loop:
        return loop.run()


class Loop:
    """One conversation; see `exchange`."""

    def __init__(self, pipes: Pipes, stdin: bytes, order: bytes, bounds: Bounds):
        self.pipes = pipes
        self.bounds = bounds
        self.said = Exchange()
        self.poll = select.poll()
        self.open = {pipes.stdin, pipes.control, pipes.stdout, pipes.stderr, pipes.report}
        self.unsent = {pipes.stdin: memoryview(stdin), pipes.control: memoryview(order)}
        self.taken = {
            pipes.stdout: ("stdout", self.said.stdout, bounds.output_bytes),
            pipes.stderr: ("stderr", self.said.stderr, bounds.output_bytes),
            pipes.report: ("report", self.said.report, bounds.report_bytes),
        }

    def __enter__(self) -> "Loop":
        for handle in self.open:
            os.set_blocking(handle, False)
        for handle in self.taken:
            self.poll.register(handle, select.POLLIN)
        for handle in self.unsent:
            self.poll.register(handle, select.POLLOUT)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in list(self.open):
            self.close(handle)

    def run(self) -> Exchange:
        """Go on until every output has ended, or the box does not end when told."""
        deadline, stop = self.bounds.deadline, self.bounds.stop
        while self.taken.keys() & self.open:
            wait_s = max(0.0, deadline - time.monotonic())
            if stop is not None and not self.said.late:
                wait_s = min(wait_s, LOOK_S)
            for handle, _ in self.poll.poll(1000 * wait_s):
                if handle not in self.open:  # closed since
                    continue
                if handle in self.taken:
                    self.take(handle)
                else:
                    self.give(handle)
            unwanted = stop is not None and stop.is_set() and not self.said.late
            if unwanted or time.monotonic() >= deadline:
                if self.said.late:
                    self.said.hung = True
                    break
                self.said.late = True
                self.close(self.pipes.control)
                deadline = time.monotonic() + FIRM_S
        return self.said

    def take(self, handle: int) -> None:
        """Read some of a stream; past its limit, tell the box to end and drop the rest."""
        name, kept, limit = self.taken[handle]
        try:
            piece = os.read(handle, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not piece:
            self.close(handle)
            return
        room = limit - len(kept)
        kept += piece[:room]
        if len(piece) > room:
            self.said.overflow = self.said.overflow or name
            self.close(self.pipes.control)

    def give(self, handle: int) -> None:
        """Write some of what is to be sent; the end of stdin is closed, that of control is not."""
        rest = self.unsent[handle]
        try:
            self.unsent[handle] = rest = rest[os.write(handle, rest[:CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more
            rest = rest[:0]
        if rest:
            return
        if handle == self.pipes.control:
            self.poll.unregister(handle)
        else:
            self.close(handle)

    def close(self, handle: int) -> None:
        """Close one of our ends; a second time does nothing."""
        if handle in self.open:
            self.open.remove(handle)
            with contextlib.suppress(KeyError):  # control is unregistered once it is sent
                self.poll.unregister(handle)
            os.close(handle)
