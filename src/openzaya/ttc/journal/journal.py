"""The journal: what every run did, so that it can be resumed, watched and exported.

Writes leave through one thread (`writer.py`); reads have a connection of their own. Every method
that touches the disk is a coroutine, so that the event loop never waits for it.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from openzaya.ttc.events import OnEvent
from openzaya.ttc.journal.spec import Begun, JournalEvent, Lease, RunSpec
from openzaya.ttc.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """How the journal keeps time and space."""

    lease_s: float = 30.0
    """A run whose owner was not heard of for so long may be taken over."""
    full_wait_s: float = 30.0
    """How long the end of a run waits for space on a full disk before it is reported."""
    max_pending_bytes: int = 64 << 20
    """Unwritten text beyond this fails the runs that add to it."""
    progress_tokens: int = 64
    """Generated text is kept every so many tokens of a candidate, if progress is reported."""
    poll_s: float = 0.5
    """How often a follower in another process looks for news."""


class Journal:
    """One SQLite file or PostgreSQL database; use it as an async context manager."""

    @classmethod
    def open(cls, url: str, config: JournalConfig | None = None) -> Self:
        """Open or create the journal at a path, `sqlite:PATH` or `postgresql://...`.

        Raises ConfigError for another scheme or a missing driver, JournalError for a newer schema
        or a file that is no journal.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Write what is pending, give the leases back, and close."""

    async def __aenter__(self) -> Self:
        """Return the journal."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    # -- writing

    async def begin(self, spec: RunSpec) -> Begun:
        """Record a new run as queued and lease it, or find the run that its key names.

        Raises IdempotencyConflictError for the same key with another request, JournalFullError.
        """
        raise NotImplementedError

    async def acquire(self, run_id: str) -> Lease:
        """Take over a run that ended without being done, or whose owner is gone.

        Raises LeaseHeldError while its owner lives, RequestError when it is done, UnknownRunError.
        """
        raise NotImplementedError

    def listener(self, run_id: str, on_lost: Callable[[], None] | None = None) -> OnEvent:
        """Return what to give to `MarkovianRSA.run` as `on_event`; the run must be leased here.

        It never waits for the disk. It raises LeaseLostError, or JournalFullError when too much
        is unwritten. `on_lost` is called on the event loop when somebody else ended the run
        or took it over, so that work can stop before the next event.
        """
        raise NotImplementedError

    async def finish(self, run_id: str, result: Result) -> None:
        """Record the result and give the lease back; returns when it is safe on the disk.

        The state becomes `done`, or `interrupted` for a result that says so.
        """
        raise NotImplementedError

    async def fail(self, run_id: str, error: BaseException) -> None:
        """Record why a run failed and give the lease back."""
        raise NotImplementedError

    async def cancel(self, run_id: str) -> bool:
        """End a run as cancelled, whoever works on it; False when it had ended before.

        An owner elsewhere learns it by its next write, which is refused, or its next heartbeat.
        """
        raise NotImplementedError

    async def prune(
        self,
        *,
        older_than_s: float | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
    ) -> int:
        """Forget ended runs: the older ones, all but the newest `keep`, or until the size fits.

        Returns how many were forgotten; the space goes back to the disk.
        """
        raise NotImplementedError

    # -- reading

    async def spec(self, run_id: str) -> RunSpec:
        """Return what began the run."""
        raise NotImplementedError

    async def runs(
        self, limit: int = 50, before: str | None = None, state: str | None = None
    ) -> list[dict[str, Any]]:
        """Return RunSummary dicts, newest first; `before` is the id of the last one seen."""
        raise NotImplementedError

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return the RunDetail of a run. Raises UnknownRunError, JournalDamagedError."""
        raise NotImplementedError

    async def candidate(self, run_id: str, stage: int, slot: int) -> dict[str, Any]:
        """Return the CandidateDetail of a candidate: its prompt, text and tail too."""
        raise NotImplementedError

    async def events(self, run_id: str, after: int = 0) -> list[JournalEvent]:
        """Return the events of a run that follow number `after` and are safe on the disk."""
        raise NotImplementedError

    def follow(self, run_id: str, after: int = 0) -> AsyncIterator[JournalEvent]:
        """Go through the events after number `after` as they come; ends after `done`."""
        raise NotImplementedError
