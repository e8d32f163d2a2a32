"""Reading and writing rows; a checksum on each tells that it is what was written."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from openzaya.ttc.journal.candidates import view_of
from openzaya.ttc.journal.database import Database, Value
from openzaya.ttc.journal.errors import RowDamagedError, UnknownRunError
from openzaya.ttc.journal.owner import is_gone
from openzaya.ttc.journal.sealed import seal, seal_text, unseal, unseal_text
from openzaya.ttc.journal.spec import ENDED, JournalEvent, RunSpec

Place = tuple[int, int]
"""Stage and slot."""
Row = tuple[Value, ...]

Entry = list[Any]
"""An event: number, kind, microseconds since the start of the run, length of its text, and what is
told: a dictionary, or the values of a candidate, which are not a list of their own to save time."""
VALUE = 4
"""Where in an entry begins what is told."""
TextAt = tuple[int, int, int]
"""Number of a row of `told`, and where in its content a text begins and how long it is."""

_COLUMNS = "id, state, created_s, clock_s, owner, epoch, expires_s"


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


def save_document(database: Database, run_id: str, kind: str, value: Mapping[str, Any]) -> None:
    """Write the `spec` or `outcome` of a run."""
    database.execute(
        "INSERT INTO document (run, kind, body) VALUES (?, ?, ?) "
        "ON CONFLICT (run, kind) DO UPDATE SET body = excluded.body",
        (run_id, kind, seal(dict(value), run_id, kind)),
    )


def load_document(database: Database, run_id: str, kind: str) -> dict[str, Any]:
    """Return the `spec` or `outcome` of a run; no outcome is known before the run starts.

    Raises JournalDamagedError.
    """
    rows = database.execute("SELECT body FROM document WHERE run = ? AND kind = ?", (run_id, kind))
    if not rows and kind == "outcome":
        return {}
    value: dict[str, Any] = unseal(rows[0][0] if rows else None, run_id, kind)
    return value


def load_spec(database: Database, run_id: str) -> RunSpec:
    """Return what began a run."""
    return RunSpec.from_json(load_document(database, run_id, "spec"))


def told_row(run_id: str, entries: Sequence[Entry], texts: Sequence[str]) -> Row:
    """Return a row of the table `told`: events, and the texts that their lengths speak of."""
    seq = entries[-1][0]
    content = seal_text("".join(texts), run_id, seq, "content") if texts else None
    return (run_id, seq, seal(entries, run_id, seq), content)


@dataclass(frozen=True, slots=True)
class ToldRow:
    """A row of the table `told`, as far as it can be read."""

    seq: int
    """Its number."""
    entries: Sequence[Entry]
    """Its events."""
    damage: str = ""
    """Why there are none."""


def load_told(database: Database, run_id: str, after: int = 0) -> list[ToldRow]:
    """Return rows with events that follow a number, in order; damaged ones are marked."""
    lines = database.lines(
        "SELECT seq || ' ' || body AS line FROM told WHERE run = ? AND seq > ?", (run_id, after)
    )
    found = []
    for line in lines:
        number, _, body = line.partition(" ")
        seq = int(number)
        try:
            found.append(ToldRow(seq, unseal(body, run_id, seq)))
        except RowDamagedError as error:
            found.append(ToldRow(seq, (), str(error)))
    return sorted(found, key=attrgetter("seq"))


def empty_told(database: Database, run_id: str, seqs: Iterable[int]) -> None:
    """Overwrite rows that cannot be read with rows without events; their numbers stay taken."""
    for seq in seqs:
        database.execute(
            "UPDATE told SET body = ?, content = NULL WHERE run = ? AND seq = ?",
            (seal([], run_id, seq), run_id, seq),
        )


def load_text(database: Database, run_id: str, at: TextAt) -> str:
    """Return one of the texts of a row. Raises JournalDamagedError."""
    seq, begin, length = at
    rows = database.execute("SELECT content FROM told WHERE run = ? AND seq = ?", (run_id, seq))
    content = unseal_text(rows[0][0] if rows else None, run_id, seq, "content")
    return content[begin : begin + length]


def delta_row(run_id: str, seq: int, place: Place, value: Mapping[str, Any]) -> Row:
    """Return a row of the table `delta`: a piece of a candidate's text while it is generated."""
    return (run_id, seq, *place, seal(value, run_id, seq, *place))


def last_seq(database: Database, run_id: str) -> int:
    """Return the number of the newest event or piece of a run."""
    rows = database.execute(
        "SELECT MAX(seq) FROM (SELECT MAX(seq) AS seq FROM told WHERE run = ? "
        "UNION ALL SELECT MAX(seq) AS seq FROM delta WHERE run = ?) AS newest",
        (run_id, run_id),
    )
    return int(rows[0][0] or 0)


def load_deltas(database: Database, run_id: str, stage: int, slot: int) -> list[dict[str, Any]]:
    """Return the pieces of an unfinished candidate, in order."""
    rows = database.execute(
        "SELECT seq, body FROM delta WHERE run = ? AND stage = ? AND slot = ? ORDER BY seq",
        (run_id, stage, slot),
    )
    return [unseal(body, run_id, seq, stage, slot) for seq, body in rows]


def drop_deltas(database: Database, run_id: str, place: Place, before: int) -> None:
    """Forget the pieces from before an event: the candidate is complete, or begins again."""
    database.execute(
        "DELETE FROM delta WHERE run = ? AND stage = ? AND slot = ? AND seq < ?",
        (run_id, *place, before),
    )


def load_events(database: Database, run_id: str, after: int) -> list[JournalEvent]:
    """Return the events that follow a number; progress of complete candidates is gone.

    What damaged rows told is left out.
    """
    events = []
    for row in load_told(database, run_id, after):
        for entry in row.entries:
            seq, kind = entry[:2]
            if seq > after:
                shown = view_of(entry[VALUE:]) if kind == "candidate" else entry[VALUE]
                events.append(JournalEvent(seq, kind, shown))
    for seq, stage, slot, body in database.execute(
        "SELECT seq, stage, slot, body FROM delta WHERE run = ? AND seq > ?", (run_id, after)
    ):
        with suppress(RowDamagedError):
            data = unseal(body, run_id, seq, stage, slot)
            del data["text"]
            events.append(JournalEvent(seq, "progress", data))
    return sorted(events, key=lambda event: event.seq)
