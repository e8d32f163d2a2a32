"""From an address to a connection."""

from pathlib import Path

from openzaya.core.errors import ConfigError
from openzaya.ttc.journal.database import Database, SqliteDatabase
from openzaya.ttc.journal.errors import JournalReadOnlyError


def open_database(url: str, *, writes: bool = False) -> Database:
    """Open a journal by path, `sqlite:PATH` or `postgresql://...`.

    Raises JournalReadOnlyError for one that may only be read where the caller `writes`.
    """
    if url.startswith(("postgresql://", "postgres://")):
        from openzaya.ttc.journal.postgres import PostgresDatabase

        return PostgresDatabase(url)
    scheme, has_scheme, rest = url.partition(":")
    if has_scheme and scheme == "sqlite":
        url = "/" + rest.lstrip("/") if rest.startswith("//") else rest
    elif has_scheme and rest.startswith("//"):
        raise ConfigError(
            f"a journal cannot be kept at {scheme}://; give a path, sqlite:PATH or postgresql://..."
        )
    if not url:
        raise ConfigError("the journal's path is empty; give a path or postgresql://...")
    database = SqliteDatabase(Path(url).expanduser())
    if writes and not database.is_writable:
        database.close()
        raise JournalReadOnlyError(url)
    return database
