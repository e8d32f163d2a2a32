"""The one thread that writes: what piled up since its last commit goes out with the next."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import monotonic
from typing import Any

from openzaya.core.errors import OpenZayaError
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalError, JournalFullError

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
    """One thing to write. `apply` may be tried again after a rollback: it only touches rows."""

    apply: Callable[[Database], Any]
    run_id: str = ""
    is_durable: bool = True
    """Wait for the disk before the future is set; all writes of a commit then do."""
    waits: bool = False
    """Stay queued while the disk is full; others are refused at once."""
    size: int = 0
    """Roughly how many bytes it holds in memory."""
    on_error: Callable[[Exception], None] | None = None
    """Told of a failure that no further try can cure."""
    future: "Future[Any]" = field(default_factory=Future)

    def fail(self, error: Exception) -> None:
        """Hand the failure to whoever waits."""
        if self.on_error is not None:
            self.on_error(error)
        self.future.set_exception(error)


class Writer:
    """Owns the writing connection; everything is done by its thread, in the order of `put`."""

    def __init__(
        self,
        database: Database,
        *,
        on_commit: Callable[[set[str]], None],
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
        self._queue: list[Write] = []
        self._news = Condition()
        self._is_closing = False
        self._beat_at = monotonic() + heartbeat_s
        self._thread = Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> "Future[Any]":
        """Queue a write; its future is set once it is committed."""
        with self._news:
            if self._is_closing:
                raise JournalError("the journal is closed; open it again to write")
            if self.trouble is not None and not write.waits:
                raise self.trouble
            self.pending_bytes += write.size
            self._queue.append(write)
            self._news.notify()
        return write.future

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

    def _take(self) -> list[Write] | None:
        """Return the next batch; None when the journal closes and nothing is left."""
        with self._news:
            while not self._queue:
                if self._is_closing:
                    return None
                wait_s = self._beat_at - monotonic()
                if wait_s <= 0:
                    break
                self._news.wait(wait_s)
            batch = self._queue[:MAX_BATCH]
            del self._queue[:MAX_BATCH]
        if monotonic() >= self._beat_at:
            self._beat_at = monotonic() + self._heartbeat_s
            beat = self._heartbeat()
            if beat is not None:
                batch.append(beat)
        return batch

    def _commit(self, batch: list[Write]) -> None:
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

    def _attempt(self, batch: list[Write]) -> list[Any]:
        with self.database.transaction(any(w.is_durable for w in batch)):
            results = [w.apply(self.database) for w in batch]
        self.num_commits += 1
        self.num_writes += len(batch)
        return results

    def _settle(self, batch: list[Write], results: list[Any]) -> None:
        if self.trouble is not None:
            _log.warning("the journal can be written again")
            self.trouble = None
        self._forget(batch)
        for write, result in zip(batch, results, strict=True):
            write.future.set_result(result)
        self._on_commit({w.run_id for w in batch if w.run_id})

    def _one_by_one(self, batch: list[Write], error: Exception) -> None:
        """Find the write that cannot be done, and do the others."""
        if len(batch) > 1:
            for write in batch:
                self._commit([write])
            return
        self._forget(batch)
        if not isinstance(error, OpenZayaError):
            _log.error("a write to the journal failed", exc_info=error)
            error = JournalError(f"the journal refused a write: {error}; this is a bug of openzaya")
        batch[0].fail(error)

    def _announce(self, error: Exception) -> None:
        if self.trouble is None:
            _log.warning("the journal cannot be written: %s", error)
        self.trouble = JournalFullError(
            f"the journal cannot be written ({error}); free space on its disk, or forget old runs "
            "with `openzaya runs prune`; nothing that was acknowledged is lost"
        )

    def _refuse(self, batch: list[Write], is_last: bool) -> list[Write]:
        """Fail the writes that do not wait, or all of them when this was the last try."""
        kept = [] if is_last else [w for w in batch if w.waits]
        refused = [w for w in batch if w not in kept]
        self._forget(refused)
        error = self.trouble or JournalFullError("the journal cannot be written")
        if not kept:
            self.trouble = None  # nothing is left to try with: the next write finds out
        for write in refused:
            write.fail(error)
        return kept

    def _forget(self, batch: list[Write]) -> None:
        with self._news:
            self.pending_bytes -= sum(w.size for w in batch)
