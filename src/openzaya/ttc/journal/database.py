"""A connection to where the journal is kept; one thread uses it at a time."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain
from os import W_OK, access, umask
from pathlib import Path
from time import time
from typing import Any, Literal

from openzaya.ttc.journal.errors import JournalDamagedError, JournalError
from openzaya.ttc.journal.schema import TABLES, VERSION

Trouble = Literal["full", "busy", "damaged", "read-only"]
Value = str | int | float | None

APPLICATION_ID = 0x6F7A6A31
"""Marks a SQLite file as a journal of ours: `ozj1`."""
MOST_AT_ONCE = 64
"""Rows of one statement."""
_NUM_STATEMENTS = 4 * MOST_AT_ONCE
"""Prepared statements that are kept: one for each number of rows, and all others."""


class Database(ABC):
    """Rows in, rows out; placeholders are question marks.

    A statement lets go of the interpreter, and waits to get it back, once for every row it returns:
    under load that takes longer than its work. So many rows go in with one statement, and come
    out as the lines of one text.
    """

    joins: str
    """SQL that joins the column `line` of all rows, with line feeds and with spaces for theirs."""
    locks: str
    """SQL after a SELECT that keeps others off its rows until the transaction ends."""

    def insert(self, table: str, rows: Sequence[Sequence[Value]]) -> None:
        """Add whole rows of equal length."""
        for at in range(0, len(rows), MOST_AT_ONCE):
            some = rows[at : at + MOST_AT_ONCE]
            self.execute(_insertion(table, len(some[0]), len(some)), [*chain.from_iterable(some)])

    def lines(self, select: str, values: Sequence[Value] = ()) -> list[str]:
        """Return the column `line` of a SELECT in any order; line feeds in it become spaces."""
        joined = self.execute(f"SELECT {self.joins} FROM ({select}) AS found", values)[0][0]
        return joined.split("\n") if joined else []

    @abstractmethod
    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, if it has any."""

    @abstractmethod
    def transaction(self, durable: bool) -> Any:
        """Return a context that commits; `durable` waits until the disk has it."""

    @abstractmethod
    def is_untouched(self) -> bool:
        """Say, within a transaction, that no other connection has written since the last call."""

    @abstractmethod
    def savepoint(self) -> Any:
        """Return a context within a transaction; what its block did is undone if it fails."""

    @abstractmethod
    def now_s(self) -> float:
        """Return the time that leases are compared by, in Unix seconds."""

    @abstractmethod
    def trouble(self, error: BaseException) -> Trouble | None:
        """Say what an error means; "full" and "busy" may pass by themselves."""

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how much room the journal takes."""

    @abstractmethod
    def reclaim(self) -> None:
        """Give the room of forgotten rows back."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class SqliteDatabase(Database):
    """A SQLite file in WAL mode.

    Its `synchronous` level changes between transactions: NORMAL survives the death of the process,
    FULL also a power cut.
    """

    joins = "group_concat(replace(line, char(10), ' '), char(10))"
    locks = ""  # a transaction has the file to itself

    def __init__(self, path: Path) -> None:
        """Open or create the file; it and its folder are for their owner's eyes only."""
        self.path = path
        self._is_full_sync = True
        self._seen = -1
        old = umask(0o077)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path,
                timeout=10,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_NUM_STATEMENTS,
            )
            # A damaged text may be no UTF-8. Its checksum tells so, and the other rows are read.
            self._connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            cure = (
                "name a file that this user may write, and that is a journal or does not exist yet"
            )
            if self.trouble(error) == "full":
                cure = "free space on its disk, or name a file elsewhere"
            raise JournalError(f"the journal {path} cannot be opened: {error}; {cure}") from error
        finally:
            umask(old)

    def _prepare(self) -> None:
        version = self._pragma("user_version")
        mark = self._pragma("application_id")
        if version != VERSION and mark == APPLICATION_ID:
            raise JournalError(other_schema(str(self.path), version))
        if mark != APPLICATION_ID:
            if self.execute("SELECT 1 FROM sqlite_master LIMIT 1"):
                raise sqlite3.DatabaseError("it is the database of another program")
            self._create()
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = FULL")
        self.execute("PRAGMA temp_store = MEMORY")

    def _create(self) -> None:
        self.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("BEGIN IMMEDIATE")
        if self._pragma("application_id") != APPLICATION_ID:
            for table in TABLES:
                self.execute(table)
            self.execute(f"PRAGMA user_version = {VERSION}")
            self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.execute("COMMIT")

    def _pragma(self, name: str) -> int:
        return int(self.execute(f"PRAGMA {name}")[0][0])

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, if it has any."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            if self.trouble(error) == "damaged":
                raise JournalDamagedError(
                    f"the journal {self.path} is damaged: {error}; restore it from a copy, or "
                    "move it away to begin a new one"
                ) from error
            raise

    @contextmanager
    def transaction(self, durable: bool) -> Iterator[None]:
        """Commit what the block does, or nothing of it."""
        if durable != self._is_full_sync:
            self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_full_sync = durable
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise

    def is_untouched(self) -> bool:
        """Say whether SQLite counts no change by others."""
        before, self._seen = self._seen, self._pragma("data_version")
        return self._seen == before

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Keep what the block does, or nothing of it."""
        self.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self.execute("ROLLBACK TO part")
                self.execute("RELEASE part")
            raise
        self.execute("RELEASE part")

    def now_s(self) -> float:
        """Return the time of this machine."""
        return time()

    def trouble(self, error: BaseException) -> Trouble | None:
        """Say what an error of SQLite or of the system means."""
        code = getattr(error, "sqlite_errorcode", None)
        if not isinstance(error, sqlite3.Error) or code is None:
            return None
        primary = code & 0xFF
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return "full"
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return "busy"
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return "damaged"
        return "read-only" if primary == sqlite3.SQLITE_READONLY else None

    @property
    def is_writable(self) -> bool:
        """Whether this user may write the file, and its log beside it."""
        return access(self.path, W_OK) and access(self.path.parent, W_OK)

    def size_bytes(self) -> int:
        """Return the size of the pages in use."""
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        return pages * self._pragma("page_size")

    def reclaim(self) -> None:
        """Cut free pages off the file, and empty the write-ahead log."""
        self.execute("PRAGMA incremental_vacuum")
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; the last one to close it empties the write-ahead log."""
        self._connection.close()


def other_schema(where: str, version: int) -> str:
    """Return what to say of a journal that another version of openzaya wrote."""
    cure = "update openzaya"
    if version < VERSION:
        cure = "export its runs with the version that wrote it"
    return (
        f"the journal {where} has the schema {version}, this openzaya knows {VERSION}; {cure}, or "
        "name another file (`--journal` of runs, `--set journal=` of solve and serve)"
    )


@cache
def _insertion(table: str, num_columns: int, num_rows: int) -> str:
    row = f"({', '.join('?' * num_columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * num_rows)}"
