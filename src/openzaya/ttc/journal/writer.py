"""The one thread that writes: what piled up since its last commit goes out with the next.

A commit costs more than what is in it, so they keep a distance: a write that comes alone goes out
at once, the many of a busy gateway share. Runs do not wait for their events; only who begins or
ends a run does.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from threading import Condition, Thread
from time import monotonic
from typing import Any

from openzaya.core.errors import OpenZayaError
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalError, JournalFullError
from openzaya.ttc.journal.leases import epochs, lost
from openzaya.ttc.journal.rows import Place, Row, drop_deltas
from openzaya.ttc.journal.spec import Lease

PACE_S = 0.02
"""Between the beginnings of two commits, when nobody waits for the second."""
WAITED_FOR_S = 0.005
"""The same when somebody does."""
MAX_BATCH = 512
"""Most writes of one commit."""
FIRST_WAIT_S = 0.05
MAX_WAIT_S = 1.0
"""Waits between tries on a full disk or a busy database grow from the first to the last."""
CLOSING_TRIES = 3

_log = logging.getLogger(__name__)

__all__ = ["Write", "Writer"]


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
    size: int = 0
    """Roughly how many bytes it holds in memory."""
    on_error: Callable[[Exception], None] | None = None
    """Told of a failure that no further try can cure."""
    is_waited_for: bool = True
    changes_leases: bool = False
    """It may end a lease, or give it to somebody."""
    future: "Future[Any]" = field(default_factory=Future)

    def end(self, result: Any) -> None:
        """Hand the result, or the failure, to whoever waits."""
        if not isinstance(result, Exception):
            self.future.set_result(result)
            return
        if self.on_error is not None:
            self.on_error(result)
        self.future.set_exception(result)


@dataclass(slots=True, eq=False)
class Told:
    """One event of a leased run as rows, which are written if the lease still holds."""

    lease: Lease
    on_error: Callable[[Exception], None]
    size: int
    is_durable: bool
    event: Row | None = None
    delta: Row | None = None
    ended: tuple[Place, int] | None = None
    """A candidate whose deltas of before this event are not needed any more."""

    waits = True
    is_waited_for = False

    @property
    def run_id(self) -> str:
        """The run."""
        return self.lease.run_id

    def end(self, result: Any) -> None:
        """Tell of a failure."""
        if isinstance(result, Exception):
            self.on_error(result)


Job = Write | Told


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
        self._queue: list[Job] = []
        self._held: dict[str, int] = {}
        """Epochs of leases that nobody can have taken since they were looked up."""
        self._news = Condition()
        self._is_closing = False
        self._beat_at = monotonic() + heartbeat_s
        self._began_at = 0.0
        """When the last commit began."""
        self._is_waited_for = False
        """Somebody waits for what is queued."""
        self._thread = Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a write."""
        with self._news:
            if self._is_closing:
                raise JournalError("the journal is closed; open it again to write")
            if self.trouble is not None and not job.waits:
                raise self.trouble
            self.pending_bytes += job.size
            self._queue.append(job)
            is_first_waited_for = job.is_waited_for and not self._is_waited_for
            self._is_waited_for |= job.is_waited_for
            if len(self._queue) == 1 or is_first_waited_for:  # else the thread waits for its time
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
                self._commit(batch)
                self.busy_s += monotonic() - begun
        finally:
            self.database.close()

    def _take(self) -> list[Job] | None:
        """Return the next batch; None when the journal closes and nothing is left."""
        with self._news:
            while True:
                if self._is_closing and not self._queue:
                    return None
                until = self._beat_at
                if self._queue:
                    pace_s = WAITED_FOR_S if self._is_waited_for else PACE_S
                    until = min(until, self._began_at + pace_s)
                wait_s = until - monotonic()
                if wait_s <= 0 or self._is_closing:
                    break
                self._news.wait(wait_s)
            batch = self._queue[:MAX_BATCH]
            del self._queue[:MAX_BATCH]
            self._is_waited_for = any(job.is_waited_for for job in self._queue)
        self._began_at = monotonic()
        if monotonic() >= self._beat_at:
            self._beat_at = monotonic() + self._heartbeat_s
            beat = self._heartbeat()
            if beat is not None:
                batch.append(beat)
        return batch

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
        with self.database.transaction(any(job.is_durable for job in batch)):
            if not self.database.is_untouched():
                self._held.clear()
            results: list[Any] = []
            for is_told, jobs in groupby(batch, lambda job: isinstance(job, Told)):
                if is_told:
                    results += self._store([job for job in jobs if isinstance(job, Told)])
                else:
                    results += [self._apply(job) for job in jobs if isinstance(job, Write)]
        self.num_commits += 1
        self.num_writes += len(batch)
        return results

    def _store(self, told: list[Told]) -> list[Exception | None]:
        """Write the rows of many runs with a few statements; return what was refused."""
        held, ids = self._held, {job.run_id for job in told}
        held |= epochs(self.database, told[0].lease.owner, ids - held.keys())
        good = [job for job in told if held.get(job.run_id) == job.lease.epoch]
        self.database.insert("event", [job.event for job in good if job.event])
        self.database.insert("delta", [job.delta for job in good if job.delta])
        for job in good:
            if job.ended is not None:
                place, seq = job.ended
                drop_deltas(self.database, job.run_id, *place, seq)
        return [None if held.get(j.run_id) == j.lease.epoch else lost(j.lease) for j in told]

    def _apply(self, write: Write) -> Any:
        """Do one thing; what it has to refuse concerns nobody else."""
        if write.changes_leases:
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
        if not isinstance(error, OpenZayaError):
            _log.error("a write to the journal failed", exc_info=error)
            error = JournalError(f"the journal refused a write: {error}; this is a bug of openzaya")
        batch[0].end(error)

    def _announce(self, error: Exception) -> None:
        if self.trouble is None:
            _log.warning("the journal cannot be written: %s", error)
        self.trouble = JournalFullError(
            f"the journal cannot be written ({error}); free space on its disk, or forget old runs "
            "with `openzaya runs prune`; nothing that was acknowledged is lost"
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
            self.pending_bytes -= sum(w.size for w in batch)
