"""What is wanted of an engine, and the choices of one request as its handler sees them."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from openzaya.engine.request import (
    EngineStats,
    OnStart,
    OnToken,
    Output,
    SamplingParams,
    TokenEvent,
)
from openzaya.serve.errors import ApiError


class TokenEngine(Protocol):
    """The part of `openzaya.Engine` that the server needs."""

    stats: EngineStats
    """What it has done."""

    @property
    def has_work(self) -> bool:
        """True while `step` has something to do."""
        ...

    @property
    def num_running(self) -> int:
        """Requests that are prefilled or decoded now."""
        ...

    def add(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        priority: int = 0,
        *,
        tenant: str = "",
        salt: str = "",
        on_start: OnStart | None = None,
        on_token: OnToken | None = None,
    ) -> int:
        """Queue a request and return its id."""
        ...

    def abort(self, request_id: int) -> None:
        """End a request; from any thread."""
        ...

    def step(self) -> list[Output]:
        """Run one step."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One choice that is wanted."""

    prompt: list[int]
    """Token ids."""
    params: SamplingParams
    """How to sample it."""


class Job:
    """The choices of one HTTP request; lives in the event loop."""

    def __init__(self, asks: Sequence[Ask], priority: int, tenant: str = "") -> None:
        self.asks = asks
        self.priority = priority
        self.tenant = tenant
        self.open = set(range(len(asks)))
        """Choices that still generate."""
        self.ids: list[int] = []
        """The engine's ids, once its thread has taken the job."""
        self.cancelled = False
        self.began = monotonic()
        self.placed_at: float | None = None
        """When the first choice got a slot of the engine."""
        self.queue_timer: asyncio.TimerHandle | None = None
        """Ends the wait for a slot."""
        self._waited = asyncio.Event()
        self.unread: deque[tuple[int, TokenEvent]] = deque()
        self.wake = asyncio.Event()
        self.failure: ApiError | None = None

    def place(self) -> None:
        """Take note that a choice got a slot."""
        if self.placed_at is None:
            self.placed_at = monotonic()
            self.end_wait()

    def end_wait(self) -> None:
        """Wait no longer for a slot: there is one, or nobody wants it."""
        self._waited.set()
        if self.queue_timer is not None:
            self.queue_timer.cancel()

    async def placed(self) -> None:
        """Return when the first choice got a slot. Raises ApiError when none will."""
        await self._waited.wait()
        if self.failure is not None:
            raise self.failure

    async def events(self, patience_s: float) -> list[tuple[int, TokenEvent]]:
        """Return the (choice, token) pairs that came since the last call; wait for one at least.

        Returns none when `patience_s` passed without news. Raises ApiError when the engine failed.
        """
        if not self.unread and self.failure is None:
            self.wake.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self.wake.wait()
            except TimeoutError:
                return []
        if self.failure is not None:
            raise self.failure
        fresh = list(self.unread)
        self.unread.clear()
        return fresh
