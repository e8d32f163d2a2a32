"""Who waits for news of a run, on any event loop."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Followers:
    """The events that are set when a run has told something."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._by_run: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    @contextmanager
    def news(self, run_id: str) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that every `tell` of the run sets."""
        news = asyncio.Event()
        mine = (asyncio.get_running_loop(), news)
        self._by_run.setdefault(run_id, set()).add(mine)
        try:
            yield news
        finally:
            waiting = self._by_run.get(run_id, set())
            waiting.discard(mine)
            if not waiting:
                self._by_run.pop(run_id, None)

    def any_of(self, run_id: str) -> bool:
        """Say whether a run is followed."""
        return run_id in self._by_run

    def tell(self, run_ids: Iterable[str]) -> None:
        """Wake whoever follows these runs; any thread may call it."""
        if not self._by_run:
            return
        for run_id in self._by_run.keys() & set(run_ids):
            for loop, news in tuple(self._by_run.get(run_id, ())):
                call_on(loop, news.set)


def call_on(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    """Have a loop call something, from any thread; a closed one does not any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)
