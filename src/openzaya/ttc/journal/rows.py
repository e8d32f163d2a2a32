"""Reading and writing single rows; every write first proves that the lease still holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalDamagedError, LeaseLostError, UnknownRunError
from openzaya.ttc.journal.owner import is_gone
from openzaya.ttc.journal.sealed import seal, unseal
from openzaya.ttc.journal.spec import ENDED, JournalEvent, Lease, RunSpec

_COLUMNS = "id, state, created_s, clock_s, owner, epoch, expires_s, last_seq"


@dataclass(frozen=True, slots=True)
class RunRow:
    """The part of a run that changes often."""

    id: str
    state: str
    created_s: float
    clock_s: float
    owner: str
    epoch: int
    expires_s: float
    last_seq: int

    def is_live(self, now_s: float) -> bool:
        """Say whether somebody works on the run, as far as can be told from here."""
        has_owner = self.state not in ENDED and now_s < self.expires_s
        return has_owner and not is_gone(self.owner)

    def shown_state(self, now_s: float) -> str:
        """The state, `interrupted` for a run whose owner is gone."""
        return self.state if self.state in ENDED or self.is_live(now_s) else "interrupted"


def load_run(database: Database, run_id: str) -> RunRow:
    """Return a run's row. Raises UnknownRunError."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM run WHERE id = ?", (run_id,))
    if not rows:
        raise UnknownRunError(f"there is no run {run_id!r}; `openzaya runs list` names them")
    return RunRow(*rows[0])


def list_runs(
    database: Database,
    limit: int,
    before: str | None,
    states: tuple[str, ...],
    tenant: str | None = None,
) -> list[RunRow]:
    """Return rows, newest first."""
    marks = ", ".join("?" * len(states))
    where = f"state IN ({marks})" + (" AND id < ?" if before else "")
    values: list[str | int] = [*states, *([before] if before else [])]
    if tenant is not None:
        where += " AND tenant = ?"
        values.append(tenant)
    values.append(limit)
    found = database.execute(
        f"SELECT {_COLUMNS} FROM run WHERE {where} ORDER BY id DESC LIMIT ?", values
    )
    return [RunRow(*row) for row in found]


def claim(database: Database, lease: Lease, num_events: int, expires_s: float) -> int:
    """Prove the lease, prolong it, and return the number of the last event so far.

    Raises LeaseLostError for a stale lease; the row is locked until the transaction ends.
    """
    rows = database.execute(
        "UPDATE run SET last_seq = last_seq + ?, expires_s = ? "
        "WHERE id = ? AND owner = ? AND epoch = ? RETURNING last_seq",
        (num_events, expires_s, lease.run_id, lease.owner, lease.epoch),
    )
    if not rows:
        raise LeaseLostError(
            f"run {lease.run_id} was cancelled, forgotten or taken over by another process; "
            "what this one still had to write was refused"
        )
    return int(rows[0][0]) - num_events


def set_state(database: Database, run_id: str, state: str) -> None:
    """Change a run's state."""
    database.execute("UPDATE run SET state = ? WHERE id = ?", (state, run_id))


def save_document(database: Database, run_id: str, kind: str, value: Mapping[str, Any]) -> None:
    """Write the `spec` or `outcome` of a run."""
    database.execute(
        "INSERT INTO document (run, kind, body) VALUES (?, ?, ?) "
        "ON CONFLICT (run, kind) DO UPDATE SET body = excluded.body",
        (run_id, kind, seal(dict(value), run_id, kind)),
    )


def load_document(database: Database, run_id: str, kind: str) -> dict[str, Any]:
    """Return the `spec` or `outcome` of a run. Raises JournalDamagedError."""
    rows = database.execute("SELECT body FROM document WHERE run = ? AND kind = ?", (run_id, kind))
    if not rows:
        raise JournalDamagedError(f"row {run_id}/{kind} is missing from the journal")
    value: dict[str, Any] = unseal(rows[0][0], run_id, kind)
    return value


def load_spec(database: Database, run_id: str) -> RunSpec:
    """Return what began a run."""
    return RunSpec.from_json(load_document(database, run_id, "spec"))


def save_event(
    database: Database, run_id: str, seq: int, kind: str, at_s: float, value: Mapping[str, Any]
) -> None:
    """Append to the event log."""
    database.execute(
        "INSERT INTO event (run, seq, kind, at_s, body) VALUES (?, ?, ?, ?, ?)",
        (run_id, seq, kind, at_s, seal(dict(value), run_id, seq, kind)),
    )


def save_facts(database: Database, run_id: str, view: Mapping[str, Any]) -> None:
    """Write the facts of a candidate, over those from before."""
    stage, slot = view["stage"], view["slot"]
    database.execute(
        "INSERT INTO candidate (run, stage, slot, state, facts) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (run, stage, slot) "
        "DO UPDATE SET state = excluded.state, facts = excluded.facts",
        (run_id, stage, slot, view["state"], seal(dict(view), run_id, stage, slot)),
    )


def load_facts(database: Database, run_id: str, where: str = "") -> list[dict[str, Any]]:
    """Return the facts of candidates, by stage and slot; `where` is SQL of ours, from AND on."""
    rows = database.execute(
        f"SELECT stage, slot, state, facts FROM candidate WHERE run = ? {where} "
        "ORDER BY stage, slot",
        (run_id,),
    )
    views = []
    for stage, slot, state, facts in rows:
        view = unseal(facts, run_id, stage, slot)
        if view["state"] != state:
            raise JournalDamagedError(
                f"row {run_id}/{stage}/{slot} is damaged: its column says {state!r}, its facts "
                f"{view['state']!r}; restore the journal from a copy"
            )
        views.append(view)
    return views


def save_content(
    database: Database, run_id: str, stage: int, slot: int, kind: str, value: object
) -> None:
    """Write the `prompt` or `text` of a candidate."""
    database.execute(
        "INSERT INTO content (run, stage, slot, kind, body) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (run, stage, slot, kind) DO UPDATE SET body = excluded.body",
        (run_id, stage, slot, kind, seal(value, run_id, stage, slot, kind)),
    )


def load_content(database: Database, run_id: str, stage: int, slot: int, kind: str) -> Any:
    """Return the `prompt` or `text` of a candidate; None when it was not written."""
    rows = database.execute(
        "SELECT body FROM content WHERE run = ? AND stage = ? AND slot = ? AND kind = ?",
        (run_id, stage, slot, kind),
    )
    return unseal(rows[0][0], run_id, stage, slot, kind) if rows else None


def save_delta(
    database: Database, run_id: str, seq: int, place: tuple[int, int], value: Mapping[str, Any]
) -> None:
    """Keep a piece of a candidate's text while it is generated."""
    database.execute(
        "INSERT INTO delta (run, seq, stage, slot, body) VALUES (?, ?, ?, ?, ?)",
        (run_id, seq, *place, seal(dict(value), run_id, seq, *place)),
    )


def load_deltas(database: Database, run_id: str, stage: int, slot: int) -> list[dict[str, Any]]:
    """Return the pieces of an unfinished candidate, in order."""
    rows = database.execute(
        "SELECT seq, body FROM delta WHERE run = ? AND stage = ? AND slot = ? ORDER BY seq",
        (run_id, stage, slot),
    )
    return [unseal(body, run_id, seq, stage, slot) for seq, body in rows]


def drop_deltas(database: Database, run_id: str, stage: int, slot: int) -> None:
    """Forget the pieces: the candidate is complete, or begins again."""
    database.execute(
        "DELETE FROM delta WHERE run = ? AND stage = ? AND slot = ?", (run_id, stage, slot)
    )


def load_events(database: Database, run_id: str, after: int) -> list[JournalEvent]:
    """Return the events that follow a number; progress of complete candidates is gone."""
    rows = database.execute(
        "SELECT seq, kind, body, 0, 0 FROM event WHERE run = ? AND seq > ? UNION ALL "
        "SELECT seq, 'progress', body, stage, slot FROM delta WHERE run = ? AND seq > ? "
        "ORDER BY seq",
        (run_id, after, run_id, after),
    )
    events = []
    for seq, kind, body, stage, slot in rows:
        if kind == "progress":
            data = unseal(body, run_id, seq, stage, slot)
            del data["text"]
        else:
            data = unseal(body, run_id, seq, kind)
        events.append(JournalEvent(seq, kind, data))
    return events
