"""The journal in PostgreSQL, for several gateways that share it. Needs the package psycopg."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

from openzaya.core.errors import ConfigError
from openzaya.ttc.journal.database import Database, Trouble, Value, other_schema
from openzaya.ttc.journal.errors import JournalError
from openzaya.ttc.journal.schema import TABLES, TABLES_OF_A_RUN, VERSION

SCHEMA = "openzaya"
"""Name of the PostgreSQL schema that holds the tables."""
_CREATION_LOCK = 0x6F7A6A31
_FULL = ("53100", "53200")
_DAMAGED = ("XX001", "XX002")
_BUSY = ("40", "55", "57", "08", "53")
"""SQLSTATE classes that pass: conflict, lock, shutdown, connection, too little of something."""


class PostgresDatabase(Database):
    """One connection; it is opened again when it was lost."""

    joins = "string_agg(replace(line, chr(10), ' '), chr(10))"
    locks = "FOR UPDATE"

    def __init__(self, url: str) -> None:
        """Connect and create the tables if need be."""
        try:
            self._psycopg: Any = importlib.import_module("psycopg")
        except ImportError as error:
            raise ConfigError(
                "a journal at postgresql:// needs the package psycopg; install it with: "
                "pip install 'openzaya[postgres]'"
            ) from error
        self._url = url
        who, _, where = url.partition("://")[2].rpartition("@")
        self._where = f"postgresql://{where.partition('?')[0]}"
        self._connection: Any = None
        self._is_within = False
        """Within a transaction, which ends with its connection."""
        self._clock_offset_s = 0.0
        try:
            self._connect()
            self._prepare()
        except self._psycopg.Error as error:
            told, secret = str(error), who.partition(":")[2]
            told = told.replace(secret, "***") if secret else told
            raise JournalError(
                f"the journal {self._where} cannot be opened: {told}; check the address, the "
                "user and that the server runs"
            ) from error

    def _connect(self) -> None:
        self._connection = self._psycopg.connect(
            self._url, autocommit=True, client_encoding="utf-8", connect_timeout=10
        )
        self._execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        self._execute(f"SET search_path TO {SCHEMA}")
        now = self._execute("SELECT EXTRACT(EPOCH FROM clock_timestamp())")[0][0]
        self._clock_offset_s = float(now) - monotonic()

    def _prepare(self) -> None:
        with self.transaction(durable=True):
            self.execute("SELECT pg_advisory_xact_lock(?)", (_CREATION_LOCK,))
            self.execute("CREATE TABLE IF NOT EXISTS journal (version BIGINT NOT NULL)")
            rows = self.execute("SELECT version FROM journal")
            if not rows:
                for table in TABLES:
                    self.execute(table)
                self.execute("INSERT INTO journal (version) VALUES (?)", (VERSION,))
            elif rows[0][0] != VERSION:
                raise JournalError(other_schema(self._where, rows[0][0]))

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, if it has any.

        Outside of a transaction one that meets a lost connection is run again on a new one.
        """
        try:
            return self._execute(sql, values)
        except self._psycopg.OperationalError as error:
            if self._is_within or not self._connection.closed:
                raise
            try:
                self._connect()
                return self._execute(sql, values)
            except self._psycopg.OperationalError:
                raise JournalError(
                    f"the journal {self._where} cannot be read: {error}; bring its server back"
                ) from error

    def _execute(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(sql.replace("?", "%s"), values or None)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self, durable: bool) -> Iterator[None]:
        """Commit what the block does, or nothing of it."""
        with self._begun():
            self._is_within = True
            try:
                if not durable:
                    self.execute("SET LOCAL synchronous_commit TO off")
                yield
            finally:
                self._is_within = False

    def _begun(self) -> ExitStack:
        """Begin a transaction, on a new connection where the old one is lost."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._connection.transaction())
            except self._psycopg.OperationalError:
                if not self._connection.closed:
                    raise
                self._connect()
                stack.enter_context(self._connection.transaction())
            return stack.pop_all()

    def is_untouched(self) -> bool:
        """Deny it: PostgreSQL does not tell."""
        return False

    def savepoint(self) -> Any:
        """Return a context that keeps what its block does, or nothing of it."""
        return self._connection.transaction()

    def now_s(self) -> float:
        """Return the server's time, which all gateways share."""
        return monotonic() + self._clock_offset_s

    def trouble(self, error: BaseException) -> Trouble | None:
        """Say what an error of PostgreSQL means."""
        if not isinstance(error, self._psycopg.Error):
            return None
        state = str(getattr(error, "sqlstate", None) or "")
        if state in _FULL:
            return "full"
        if state in _DAMAGED:
            return "damaged"
        is_lost = isinstance(error, self._psycopg.OperationalError) and not state
        return "busy" if is_lost or state[:2] in _BUSY else None

    def size_bytes(self) -> int:
        """Return the size of the tables and their indexes."""
        names = ("run", *TABLES_OF_A_RUN)
        sizes = [
            self.execute("SELECT pg_total_relation_size(?::regclass)", (f"{SCHEMA}.{name}",))
            for name in names
        ]
        return sum(int(rows[0][0]) for rows in sizes)

    def reclaim(self) -> None:
        """Make the room of forgotten rows usable again."""
        for name in ("run", *TABLES_OF_A_RUN):
            self.execute(f"VACUUM {name}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
