"""Forgetting runs: by age, by number, by size."""

from collections.abc import Iterable

from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.rows import list_runs, load_run
from openzaya.ttc.journal.schema import TABLES_OF_A_RUN

_ALL = ("queued", "running", "done", "failed", "cancelled", "interrupted")
_PAGE = 500
_AT_ONCE = 20
"""Runs forgotten in one transaction, so that other writes get their turn."""


def forgettable(database: Database, older_than_s: float | None, keep: int | None) -> list[str]:
    """Return the ids of runs that nobody works on and that are too old or too many, oldest first.

    `older_than_s` is in seconds since their creation; `keep` counts all runs, newest first.
    """
    now_s, seen, found = database.now_s(), 0, []
    before: str | None = None
    while rows := list_runs(database, _PAGE, before, _ALL):
        for row in rows:
            seen += 1
            is_old = older_than_s is not None and row.created_s < now_s - older_than_s
            is_surplus = keep is not None and seen > keep
            if (is_old or is_surplus) and not row.is_live(now_s):
                found.append(row.id)
        before = rows[-1].id
    return found[::-1]


def oldest(database: Database, count: int) -> list[str]:
    """Return the ids of the oldest runs that nobody works on."""
    now_s = database.now_s()
    ids = [row[0] for row in database.execute("SELECT id FROM run ORDER BY id")]
    idle = (i for i in ids if not load_run(database, i).is_live(now_s))
    return [run_id for run_id, _ in zip(idle, range(count), strict=False)]


def forget(database: Database, ids: Iterable[str]) -> int:
    """Delete runs with all their rows, unless somebody works on them; return how many."""
    count = 0
    for run_id in ids:
        if load_run(database, run_id).is_live(database.now_s()):
            continue
        for table in TABLES_OF_A_RUN:
            database.execute(f"DELETE FROM {table} WHERE run = ?", (run_id,))
        database.execute("DELETE FROM run WHERE id = ?", (run_id,))
        count += 1
    return count


def batches(ids: list[str]) -> list[list[str]]:
    """Return the ids in groups for one transaction each."""
    return [ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE)]
