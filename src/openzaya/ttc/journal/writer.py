"""The one thread that writes: what piled up since its last commit goes out with the next.

A commit costs more than what is in it, so they keep a distance: a write that comes alone goes out
at once, the many of a busy gateway share. Runs do not wait for their events; only who begins or
ends a run does.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, Protocol

from openzaya.core.errors import OpenZayaError
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalError, JournalFullError, JournalReadOnlyError
from openzaya.ttc.journal.leases import epochs, lost
from openzaya.ttc.journal.rows import Place, Row, drop_deltas
from openzaya.ttc.journal.spec import Lease

PACE_S = 0.05
"""Between the beginnings of two commits, when nobody waits for the second."""
WAITED_FOR_S = 0.02
"""The same when somebody does."""
MAX_BATCH = 512
"""Most writes of one commit."""
FIRST_WAIT_S = 0.05
MAX_WAIT_S = 1.0
"""Waits between tries on a full disk or a busy database grow from the first to the last."""
CLOSING_TRIES = 3

_log = logging.getLogger(__name__)

__all__ = ["Write", "Writer", "end_of"]


@dataclass(slots=True, eq=False)
class Write:
    """Something to do with the database, and who waits for it."""

    apply: Callable[[Database], Any]
    """May be tried again after a rollback, so it only touches rows."""
    run_id: str = ""
    is_durable: bool = True
    """Wait for the disk before the future is set; all writes of a commit then do."""
    waits: bool = False
    """Stay queued while the disk is full; others are refused at once."""
    on_error: Callable[[Exception], None] | None = None
    """Told of a failure that no further try can cure."""
    is_waited_for: bool = True
    changes_leases: bool = False
    """It may end the lease of its run, or give it to somebody; those of any where it has none."""
    future: "Future[Any]" = field(default_factory=Future)

    def end(self, result: Any) -> None:
        """Hand the result, or the failure, to whoever waits."""
        if not isinstance(result, Exception):
            self.future.set_result(result)
            return
        if self.on_error is not None:
            self.on_error(result)
        self.future.set_exception(result)


async def end_of(write: Write) -> Any:
    """Return what came of a queued write; it is done even if nobody waits any more."""
    result = asyncio.wrap_future(write.future)
    result.add_done_callback(lambda done: done.cancelled() or done.exception())  # is not logged
    return await asyncio.shield(result)


@dataclass(slots=True, eq=False)
class Told:
    """What a leased run told since the last commit, as rows; written if the lease still holds."""

    lease: Lease
    on_error: Callable[[Exception], None]
    rows: list[Row]
    deltas: list[Row]
    dropped: list[tuple[Place, int]]
    """Candidates whose deltas of before an event are not needed any more, and its number."""
    is_durable: bool
    size: int = 0
    """Roughly how many bytes its events hold in memory."""

    waits = True

    @property
    def run_id(self) -> str:
        """The run."""
        return self.lease.run_id

    def end(self, result: Any) -> None:
        """Tell of a failure."""
        if isinstance(result, Exception):
            self.on_error(result)


class Teller(Protocol):
    """A run that tells of itself. All methods are called by the writer's thread."""

    def take(self, event: Any) -> None:
        """Take an event in."""
        ...

    def hand_over(self) -> Told:
        """Return what was taken in since the last time, as rows."""
        ...

    def lose(self, error: Exception) -> None:
        """Learn that nothing more can be written."""
        ...


Job = Write | Told
"""What a transaction does."""
Queued = Write | tuple[Teller, Any, int]
"""A write, or an event of a run and roughly how many bytes it holds in memory."""


class Writer:
    """Owns the writing connection; everything is done by its thread, in the order of `put`."""

    def __init__(
        self,
        database: Database,
        *,
        on_commit: Callable[[Iterable[str]], None],
        heartbeat: Callable[[], Write | None],
        heartbeat_s: float,
    ) -> None:
        """Start the thread. `on_commit` is told which runs have news, from this thread."""
        self.database = database
        self.trouble: JournalError | None = None
        """Why nothing can be written at the moment."""
        self.num_commits = 0
        self.num_writes = 0
        self.busy_s = 0.0
        """CPU and disk time spent on commits, in seconds of wall time."""
        self.pending_bytes = 0
        self._on_commit = on_commit
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._queue: list[Queued] = []
        self._held: dict[str, int] = {}
        """Epochs of leases that nobody can have taken since they were looked up."""
        self._lock = Lock()
        self._news = Condition(self._lock)
        self._is_closing = False
        self._beat_at = monotonic() + heartbeat_s
        self._began_at = float("-inf")
        """When the last commit began."""
        self._is_idle = False
        """The thread waits for whatever comes; else it looks by itself when its time is there."""
        self._is_waited_for = False
        """Somebody waits for what is queued."""
        self._thread = Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> None:
        """Queue a write."""
        with self._news:
            if self.trouble is not None and not write.waits:
                raise self.trouble
            is_first_waited_for = write.is_waited_for and not self._is_waited_for
            self._is_waited_for |= write.is_waited_for
            self._add(write, 0, wakes=is_first_waited_for)

    def tell(self, teller: Teller, event: Any, size: int) -> None:
        """Queue an event of a run."""
        with self._lock:
            self._add((teller, event, size), size, wakes=False)

    def _add(self, item: Queued, size: int, *, wakes: bool) -> None:
        if self._is_closing:
            raise JournalError("the journal is closed; open it again to write")
        self.pending_bytes += size
        self._queue.append(item)
        if wakes or self._is_idle:
            self._is_idle = False
            self._news.notify()

    def close(self) -> None:
        """Write what is queued, then end the thread and close the connection."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            while (batch := self._take()) is not None:
                begun = monotonic()
                self._commit(self._jobs(batch))
                self.busy_s += monotonic() - begun
        finally:
            self.database.close()

    def _take(self) -> list[Queued] | None:
        """Return the next batch; None when the journal closes and nothing is left."""
        with self._news:
            while True:
                if self._is_closing:
                    if not self._queue:
                        return None
                    break
                now = monotonic()
                next_at = self._began_at + (WAITED_FOR_S if self._is_waited_for else PACE_S)
                if now >= self._beat_at or (self._queue and now >= next_at):
                    break
                self._is_idle = not self._queue and now >= next_at
                until = self._beat_at if self._is_idle else min(self._beat_at, next_at)
                self._news.wait(until - now)
            self._is_idle = False
            batch = self._queue[:MAX_BATCH]
            del self._queue[:MAX_BATCH]
            self._is_waited_for = any(isinstance(q, Write) and q.is_waited_for for q in self._queue)
        self.num_writes += len(batch)
        self._began_at = monotonic()
        if self._began_at >= self._beat_at:
            self._beat_at = self._began_at + self._heartbeat_s
            beat = self._heartbeat()
            if beat is not None:
                batch.append(beat)
        return batch

    def _jobs(self, batch: list[Queued]) -> list[Job]:
        """Return what every run told as one, then the writes.

        Who waits for the write that gives a lease tells nothing before it, and a write that ends
        one is the last: so no run notices that the order of writes and events is another.
        """
        sizes: dict[Teller, int] = {}
        writes: list[Job] = []
        for queued in batch:
            if isinstance(queued, Write):
                writes.append(queued)
                continue
            teller, event, size = queued
            sizes[teller] = sizes.get(teller, 0) + size
            try:
                teller.take(event)
            except Exception as error:  # noqa: BLE001 - a bug of ours: it ends this run, not others
                teller.lose(_bug(error))
        told = (self._told_by(teller, size) for teller, size in sizes.items())
        return [*filter(None, told), *writes]

    def _told_by(self, teller: Teller, size: int) -> Told | None:
        try:
            told = teller.hand_over()
        except Exception as error:  # noqa: BLE001 - as above
            teller.lose(_bug(error))
            with self._lock:
                self.pending_bytes -= size
            return None
        told.size = size
        return told

    def _commit(self, batch: list[Job]) -> None:
        """Commit a batch, however long the disk is full; other failures concern one write each."""
        wait_s, tries = FIRST_WAIT_S, 0
        while batch:
            try:
                results = self._attempt(batch)
            except Exception as error:  # noqa: BLE001 - every failure is handed to who waits for it
                if self.database.trouble(error) not in ("full", "busy"):
                    self._one_by_one(batch, error)
                    return
                self._announce(error)
                tries += 1
                batch = self._refuse(batch, is_last=self._is_closing and tries >= CLOSING_TRIES)
                if batch:
                    with self._news:
                        self._news.wait(wait_s)
                wait_s = min(MAX_WAIT_S, 2 * wait_s)
            else:
                self._settle(batch, results)
                return

    def _attempt(self, batch: list[Job]) -> list[Any]:
        try:
            return self._write(batch)
        except BaseException:
            self._held.clear()
            raise

    def _write(self, batch: list[Job]) -> list[Any]:
        told = [job for job in batch if isinstance(job, Told)]
        with self.database.transaction(any(job.is_durable for job in batch)):
            if not self.database.is_untouched():
                self._held.clear()
            results = self._store(told) if told else []
            results += [self._apply(job) for job in batch if isinstance(job, Write)]
        self.num_commits += 1
        return results

    def _store(self, told: list[Told]) -> list[Any]:
        """Write the rows of many runs with a few statements; return what was refused."""
        held, ids = self._held, {job.run_id for job in told}
        held |= epochs(self.database, told[0].lease.owner, ids - held.keys())
        good = [job for job in told if held.get(job.run_id) == job.lease.epoch]
        self.database.insert("told", [row for job in good for row in job.rows])
        self.database.insert("delta", [row for job in good for row in job.deltas])
        for job in good:
            for place, seq in job.dropped:
                drop_deltas(self.database, job.run_id, place, seq)
        return [None if held.get(j.run_id) == j.lease.epoch else lost(j.lease) for j in told]

    def _apply(self, write: Write) -> Any:
        """Do one thing; what it has to refuse concerns nobody else."""
        if write.changes_leases:
            if write.run_id:
                self._held.pop(write.run_id, None)
            else:
                self._held.clear()
        try:
            with self.database.savepoint():
                return write.apply(self.database)
        except OpenZayaError as error:
            return error

    def _settle(self, batch: list[Job], results: list[Any]) -> None:
        if self.trouble is not None:
            _log.warning("the journal can be written again")
            self.trouble = None
        self._forget(batch)
        for job, result in zip(batch, results, strict=True):
            job.end(result)
        self._on_commit(job.run_id for job in batch)

    def _one_by_one(self, batch: list[Job], error: Exception) -> None:
        """Find the write that cannot be done, and do the others."""
        if len(batch) > 1:
            for write in batch:
                self._commit([write])
            return
        self._forget(batch)
        if self.database.trouble(error) == "read-only":
            error = JournalReadOnlyError(f"({error})")
        elif not isinstance(error, OpenZayaError):
            error = _bug(error)
        batch[0].end(error)

    def _announce(self, error: Exception) -> None:
        if self.trouble is None:
            _log.warning("the journal cannot be written: %s", error)
        cure = "free space on its disk, or forget old runs with `openzaya runs prune`"
        if self.database.trouble(error) == "busy":
            cure = "end what else holds it, or bring its server back"
        self.trouble = JournalFullError(
            f"the journal cannot be written ({error}); {cure}; "
            "nothing that was acknowledged is lost"
        )

    def _refuse(self, batch: list[Job], is_last: bool) -> list[Job]:
        """Fail the writes that do not wait, or all of them when this was the last try."""
        kept = [] if is_last else [w for w in batch if w.waits]
        refused = [w for w in batch if w not in kept]
        self._forget(refused)
        error = self.trouble or JournalFullError("the journal cannot be written")
        if not kept:
            self.trouble = None  # nothing is left to try with: the next write finds out
        for write in refused:
            write.end(error)
        return kept

    def _forget(self, batch: list[Job]) -> None:
        with self._news:
            self.pending_bytes -= sum(job.size for job in batch if isinstance(job, Told))


def _bug(error: Exception) -> JournalError:
    _log.error("a write to the journal failed", exc_info=error)
    return JournalError(f"the journal refused a write: {error}; this is a bug of openzaya")
