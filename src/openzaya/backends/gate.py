"""How many calls may be under way at once, and who goes next."""

import asyncio
import heapq
from types import TracebackType


class Gate:
    """Lets the smallest priority in first, then who came first; shrinks when a server is full.

    The limit is halved by `shrink` and regained by one for about every `limit` calls that went
    well (additive increase, multiplicative decrease).
    """

    def __init__(self, max_in_flight: int) -> None:
        """Start at the full limit, `max_in_flight` >= 1."""
        self.max_in_flight = max_in_flight
        self.limit = float(max_in_flight)
        self.in_flight = 0
        self._arrivals = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    def place(self, priority: int) -> "Place":
        """Return a context manager that holds one place while it is open."""
        return Place(self, priority)

    def shrink(self) -> None:
        """Take note that the server is overloaded."""
        self.limit = max(1.0, self.limit / 2)

    def grow(self) -> None:
        """Take note that a call went well."""
        self.limit = min(float(self.max_in_flight), self.limit + 1 / self.limit)

    async def enter(self, priority: int) -> None:
        """Wait for a place; cancelling gives it up."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (priority, self._arrivals, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back to who waits."""
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class Place:
    """One place in a gate."""

    def __init__(self, gate: Gate, priority: int) -> None:
        """Name the gate and the priority; smaller goes first."""
        self._gate = gate
        self._priority = priority

    async def __aenter__(self) -> None:
        """Wait for the place."""
        await self._gate.enter(self._priority)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._gate.leave()
