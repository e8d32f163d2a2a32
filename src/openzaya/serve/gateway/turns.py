"""Whose call goes next to an engine: by tenant, and there the oldest run's within its share.

Deviation: D-058.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count


@dataclass(order=True, slots=True)
class _Waiter:
    """One call that waits."""

    priority: int
    run: int
    arrival: int
    tenant: str = field(compare=False)
    weight: float = field(compare=False)
    turn: "asyncio.Future[None]" = field(compare=False)
    is_granted: bool = field(default=False, compare=False)


class Turns:
    """Hands out the places of one engine.

    A run may take every place while nobody else waits; as soon as two runs compete, none may take
    more than its share. A free place goes to the tenant that holds fewest for its weight. Places
    that are held already are not taken away.
    """

    def __init__(self, limit: int, share: float) -> None:
        """`limit` places; `share` in (0, 1] is the most that one run takes of a busy engine."""
        self.limit = limit
        self._most = max(1, math.ceil(limit * share))
        self._held: Counter[int] = Counter()
        self._held_by: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._arrivals = count()

    @property
    def num_held(self) -> int:
        """Places that are taken."""
        return self._held.total()

    @property
    def num_waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(
        self, run: int, priority: int = 0, *, tenant: str = "", weight: float = 1.0
    ) -> AsyncIterator[None]:
        """Hold a place; of a tenant's calls smaller priorities first, then smaller (older) runs."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(priority, run, next(self._arrivals), tenant, weight, turn)
        self._waiting.append(waiter)
        self._admit()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.is_granted:
                self._leave(waiter)
            else:
                self._waiting.remove(waiter)
            raise
        try:
            yield
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        self._held_by[waiter.tenant] -= 1
        self._held[waiter.run] -= 1
        if not self._held[waiter.run]:
            del self._held[waiter.run]
        self._admit()

    def _admit(self) -> None:
        """Give free places to those who wait, in order."""
        while self._waiting and self.num_held < self.limit:
            runs = {waiter.run for waiter in self._waiting} | set(self._held)
            most = self._most if len(runs) > 1 else self.limit
            ready = [w for w in self._waiting if self._held[w.run] < most and not w.turn.done()]
            if not ready:
                return
            first = min(ready, key=lambda w: (self._held_by[w.tenant] / w.weight, w))
            self._waiting.remove(first)
            self._held[first.run] += 1
            self._held_by[first.tenant] += 1
            first.is_granted = True
            first.turn.set_result(None)
