"""Waking those who watch something that changes; what changed they look up themselves."""

import asyncio


class News:
    """A counter that can be awaited; lives in one event loop."""

    def __init__(self) -> None:
        self.version = 0
        """Counts what happened."""
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Wake everybody who waits."""
        self.version += 1
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, seen: int, patience_s: float) -> bool:
        """Return True once more has happened than `seen`, False when the patience ends first."""
        if self.version > seen:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(patience_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiter)
        return True
