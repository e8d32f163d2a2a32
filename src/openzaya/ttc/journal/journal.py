"""The journal: what every run did, so that it can be resumed, watched and exported.

Writes leave through one thread (`writer.py`); reads have a connection of their own. Every method
that touches the disk is a coroutine, so that the event loop never waits for it.

Deviation: D-059.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from openzaya.ttc.events import OnEvent, Recorded
from openzaya.ttc.journal import leases, retention, views
from openzaya.ttc.journal.candidates import View
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalError, JournalFullError, LeaseLostError
from openzaya.ttc.journal.followers import Followers, call_on
from openzaya.ttc.journal.history import History, Record
from openzaya.ttc.journal.opening import open_database
from openzaya.ttc.journal.owner import new_owner
from openzaya.ttc.journal.recorder import Recorder, outcome_of
from openzaya.ttc.journal.rows import RunRow, last_seq, load_events, load_run, load_spec
from openzaya.ttc.journal.spec import ENDED, Begun, JournalEvent, Lease, RunSpec
from openzaya.ttc.journal.writer import Write, Writer, end_of
from openzaya.ttc.result import Result

T = TypeVar("T")

NUM_REMEMBERED = 64
"""Runs that ended here, whose events need not be read from the rows."""


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
    """Reported text is kept at a candidate's first token and every so many after it."""
    poll_s: float = 0.5
    """How often a follower in another process looks for news."""


class Journal:
    """One SQLite file or PostgreSQL database; use it as an async context manager."""

    def __init__(self, writing: Database, reading: Database, config: JournalConfig) -> None:
        """Take two connections to the same journal; `Journal.open` makes them."""
        self.config = config
        self.owner = new_owner()
        self._recorders: dict[str, Recorder] = {}
        self._ended: dict[str, Record] = {}
        self._reading = reading
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._followers = Followers()
        self._is_closed = False
        self.writer = Writer(
            writing,
            on_commit=self._followers.tell,
            heartbeat=self._heartbeat,
            heartbeat_s=config.lease_s / 3,
        )

    @classmethod
    def open(cls, url: str, config: JournalConfig | None = None, *, writes: bool = False) -> Self:
        """Open or create the journal at a path, `sqlite:PATH` or `postgresql://...`.

        Raises ConfigError for another scheme or a missing driver, JournalError for a newer schema,
        a file that is no journal, or one that may only be read where the caller `writes`.
        """
        return cls(open_database(url, writes=writes), open_database(url), config or JournalConfig())

    async def close(self) -> None:
        """Write what is pending, give the leases back, and close."""
        if self._is_closed:
            return
        self._is_closed = True
        held = [r.lease for r in self._recorders.values()]
        if held and self.writer.trouble is None:
            self.writer.put(Write(lambda db: leases.release(db, held), changes_leases=True))
        await asyncio.to_thread(self.writer.close)
        self._readers.shutdown()
        self._reading.close()

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

    @property
    def pending_bytes(self) -> int:
        """How much text waits for its commit, roughly."""
        return self.writer.pending_bytes

    # -- writing

    async def begin(self, spec: RunSpec) -> Begun:
        """Record a new run as queued and lease it, or find the run that its key names.

        Raises IdempotencyConflictError for the same key with another request, JournalFullError.
        """
        stored = spec.to_json()
        write = Write(lambda db: leases.begin(db, spec, stored, self.owner, self.config.lease_s))
        self.writer.put(write)
        try:
            begun: Begun | str = await end_of(write)
        except asyncio.CancelledError:
            write.future.add_done_callback(self._abandon)
            raise
        if isinstance(begun, str):
            raise leases.refused(begun)
        if begun.lease is not None:
            self._hold(begun.lease, Record(stored, {}, History(begun.run_id)), seq=0)
        return begun

    def _abandon(self, future: "Future[Any]") -> None:
        """Cancel a new run that nobody waits for any more."""
        begun = None if future.exception() else future.result()
        if isinstance(begun, Begun) and begun.is_new and not self._is_closed:
            self.writer.put(_cancelling(begun.run_id, waits=True))

    async def acquire(self, run_id: str) -> Lease:
        """Take over a run that ended without being done, lost rows, or whose owner is gone.

        Raises LeaseHeldError while its owner lives, RequestError when it is done and whole,
        UnknownRunError, JournalDamagedError when nobody knows what to run.
        """

        def apply(database: Database) -> tuple[Lease, Record, int]:
            lease = leases.acquire(database, run_id, self.owner, self.config.lease_s)
            return lease, Record.of(database, run_id), last_seq(database, run_id)

        write = Write(apply, run_id=run_id, changes_leases=True)
        return self._hold(*await self._write(write))

    def _hold(self, lease: Lease, record: Record, seq: int) -> Lease:
        self._recorders[lease.run_id] = Recorder(
            lease=lease,
            writer=self.writer,
            max_pending_bytes=self.config.max_pending_bytes,
            progress_tokens=self.config.progress_tokens,
            record=record,
            seq=seq,
        )
        return lease

    def listener(self, run_id: str, on_lost: Callable[[], None] | None = None) -> OnEvent:
        """Return what to give to `MarkovianRSA.run` as `on_event`; the run must be leased here.

        It never waits for the disk. It raises LeaseLostError, or JournalFullError when too much
        is unwritten. `on_lost` is called on the event loop when somebody else ended the run
        or took it over, so that work can stop before the next event.
        """
        recorder = self._recorder(run_id)
        if on_lost is not None:
            loop = asyncio.get_running_loop()
            recorder.on_lost = partial(call_on, loop, on_lost)
        return recorder

    def _recorder(self, run_id: str) -> Recorder:
        if run_id not in self._recorders:
            raise LeaseLostError(
                f"run {run_id} is not leased by this process; begin or acquire it first"
            )
        return self._recorders[run_id]

    async def finish(self, run_id: str, result: Result) -> None:
        """Record the result and give the lease back; returns when it is safe on the disk.

        The state becomes `done`, or `interrupted` for a result that says so.
        """
        state = "interrupted" if result.interrupted else "done"
        await self._end(run_id, state, outcome_of(result))

    async def fail(self, run_id: str, error: BaseException) -> None:
        """Record why a run failed and give the lease back."""
        await self._end(run_id, "failed", {"error": f"{type(error).__name__}: {error}"})

    async def _end(self, run_id: str, state: str, facts: dict[str, Any]) -> None:
        recorder = self._recorder(run_id)
        try:
            await asyncio.wait_for(end_of(recorder.end(state, facts)), self.config.full_wait_s)
            self._remember(recorder.record)
        except TimeoutError:
            raise self.writer.trouble or JournalFullError(
                f"run {run_id} ended, but the journal was not written within "
                f"{self.config.full_wait_s} s; its disk is too slow or full"
            ) from None
        finally:
            self._recorders.pop(run_id, None)

    def _remember(self, record: Record) -> None:
        """Keep what is known of a run that ended here: its answer is made next."""
        self._ended[record.history.run_id] = record
        if len(self._ended) > NUM_REMEMBERED:
            del self._ended[next(iter(self._ended))]

    async def cancel(self, run_id: str) -> bool:
        """End a run as cancelled, whoever works on it; False when it had ended before.

        An owner elsewhere learns it by its next write, which is refused, or its next heartbeat.
        """
        was_open: bool = await self._write(_cancelling(run_id))
        recorder = self._recorders.pop(run_id, None)
        if was_open and recorder is not None:
            recorder.lose(LeaseLostError(f"run {run_id} was cancelled"))
        return was_open

    async def prune(
        self,
        *,
        older_than_s: float | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
        ids: tuple[str, ...] = (),
    ) -> int:
        """Forget ended runs: the older ones, all but the newest `keep`, or until the size fits.

        Runs of `ids` go in any case, unless somebody works on them. Returns how many were
        forgotten; the space goes back to the disk.
        """
        found = await self._read(lambda db: retention.forgettable(db, older_than_s, keep))
        count = 0
        for some in retention.batches([*ids, *(i for i in found if i not in ids)]):
            count += await self._forget(some)
        while max_bytes is not None and await self._read(lambda db: db.size_bytes()) > max_bytes:
            gone = await self._forget(await self._read(lambda db: retention.oldest(db, 20)))
            count += gone
            if not gone:
                break
        await self._read(lambda db: db.reclaim())
        return count

    async def _forget(self, ids: list[str]) -> int:
        write = Write(partial(retention.forget, ids=ids), changes_leases=True)
        return int(await self._write(write))

    async def flush(self) -> None:
        """Return when all that was told so far is safe on the disk."""
        await self._write(Write(lambda _db: None, waits=True))

    async def _write(self, write: Write) -> Any:
        self.writer.put(write)
        return await end_of(write)

    def _heartbeat(self) -> Write | None:
        """Return the write that keeps the leases held here; called by the writer's thread."""
        held = list(self._recorders.values())
        if not held:
            return None

        def apply(database: Database) -> None:
            alive = [r.lease for r in held]
            lost = leases.prolong(database, self.owner, alive, self.config.lease_s)
            for recorder in held:
                if recorder.lease in lost and self._recorders.get(recorder.lease.run_id):
                    recorder.lose(LeaseLostError(f"run {recorder.lease.run_id} was taken over"))

        return Write(apply, is_durable=False)

    # -- reading

    async def find(self, tenant: str, key: str, request_hash: str) -> Begun | None:
        """Return the run that a key names, None for a new key. Raises IdempotencyConflictError."""
        found = await self._read(lambda db: leases.known(db, tenant, key, request_hash))
        if isinstance(found, str):
            raise leases.refused(found)
        return found

    async def _read(self, ask: Callable[[Database], T]) -> T:
        if self._is_closed:
            raise JournalError("the journal is closed; open it again to read")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, ask, self._reading)

    async def spec(self, run_id: str) -> RunSpec:
        """Return what began the run."""

        def ask(database: Database) -> RunSpec:
            load_run(database, run_id)
            return load_spec(database, run_id)

        return await self._read(ask)

    async def recorded(self, run_id: str) -> Recorded:
        """Return where to go on, without what damaged rows held; for `MarkovianRSA.run`."""
        recorder = self._recorders.get(run_id)
        if recorder is not None and recorder.is_new:
            return Recorded()

        def ask(database: Database) -> Recorded:
            load_run(database, run_id)
            return History.of(database, run_id).recorded(database)

        return await self._read(ask)

    async def runs(
        self,
        limit: int = 50,
        before: str | None = None,
        state: str | None = None,
        tenant: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return RunSummary dicts, newest first; `before` is the id of the last one seen."""
        return await self._read(lambda db: views.summaries(db, limit, before, state, tenant))

    async def run(self, run_id: str) -> View:
        """Return the RunDetail of a run; `damage` says what is lost. Raises UnknownRunError."""

        def ask(database: Database) -> View:
            row = load_run(database, run_id)
            return views.detail(database, row, self._known(row) or Record.of(database, run_id))

        return await self._read(ask)

    async def candidate(self, run_id: str, stage: int, slot: int, *, prompt: bool = True) -> View:
        """Return the CandidateDetail of one. Raises UnknownRunError, JournalDamagedError."""

        def ask(database: Database) -> View:
            history = self._history(database, run_id)
            return views.candidate_detail(database, history, (stage, slot), prompt=prompt)

        return await self._read(ask)

    async def candidates(self, run_id: str) -> list[View]:
        """Return the CandidateDetail of every candidate; `damage` says why texts are missing."""

        def ask(database: Database) -> list[View]:
            history = self._history(database, run_id)
            return [views.marked_detail(database, history, place) for place in history]

        return await self._read(ask)

    def _history(self, database: Database, run_id: str) -> History:
        known = self._known(load_run(database, run_id))
        return known.history if known else History.of(database, run_id)

    def is_followed(self, run_id: str) -> bool:
        """Say whether anybody in this process waits for news of a run."""
        return self._followers.any_of(run_id)

    def _known(self, row: RunRow) -> Record | None:
        """Return what this process knows of a run, if that is all: the run is done."""
        return self._ended.get(row.id) if row.state == "done" else None

    async def events(self, run_id: str, after: int = 0) -> list[JournalEvent]:
        """Return the events of a run that follow number `after` and are safe on the disk."""
        return (await self._news(run_id, after))[1]

    async def _news(self, run_id: str, after: int) -> tuple[bool, list[JournalEvent]]:
        """Return whether a run had ended, and the events that it had told by then at least."""

        def ask(database: Database) -> tuple[bool, list[JournalEvent]]:
            has_ended = load_run(database, run_id).shown_state(database.now_s()) in ENDED
            return has_ended, load_events(database, run_id, after)

        return await self._read(ask)

    async def follow(self, run_id: str, after: int = 0) -> AsyncIterator[JournalEvent]:
        """Go through the events after number `after` as they come.

        Ends after `done`, and where nobody works on the run any more.
        """
        with self._followers.news(run_id) as news:
            while True:
                news.clear()
                has_ended, found = await self._news(run_id, after)
                for event in found:
                    after = event.seq
                    yield event
                if found and found[-1].kind == "done":
                    return
                if not found and has_ended:
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), self.config.poll_s)


def _cancelling(run_id: str, *, waits: bool = False) -> Write:
    apply = partial(leases.cancel, run_id=run_id)
    return Write(apply, run_id=run_id, waits=waits, changes_leases=True)
