"""The places where calls generate, and the queue before them."""

import heapq
from typing import Literal, Protocol


class Waiting(Protocol):
    """A call that wants a place."""

    priority: int

    def start(self) -> None:
        """The place is yours."""
        ...


class Slots:
    """At most `limit` calls generate at the same time (0: all of them)."""

    def __init__(self, limit: int, priority: Literal["none", "lower", "higher"]) -> None:
        """Say how many places there are and who leaves the queue first."""
        self._limit = limit
        self._sign = {"none": 0, "lower": 1, "higher": -1}[priority]
        self._arrivals = 0
        self._queue: list[tuple[int, int, Waiting]] = []
        self._left: set[int] = set()
        self.active = 0
        self.peak_active = 0
        self.peak_queued = 0

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return len(self._queue) - len(self._left)

    def enter(self, call: Waiting) -> int:
        """Start the call now or when it is its turn; the number returned names it in `leave`."""
        self._arrivals += 1
        heapq.heappush(self._queue, (self._sign * call.priority, self._arrivals, call))
        arrival = self._arrivals
        self._admit()
        self.peak_queued = max(self.peak_queued, self.queued)
        return arrival

    def give_up(self, arrival: int) -> None:
        """Leave the queue without a turn."""
        self._left.add(arrival)

    def leave(self) -> None:
        """Free a place."""
        self.active -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and (not self._limit or self.active < self._limit):
            _, arrival, call = heapq.heappop(self._queue)
            if arrival in self._left:
                self._left.discard(arrival)
                continue
            self.active += 1
            self.peak_active = max(self.peak_active, self.active)
            call.start()
