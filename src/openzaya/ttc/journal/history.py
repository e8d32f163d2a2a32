"""What the events of a run amount to: where every candidate stands, and where its texts are."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from openzaya.ttc.events import Recorded
from openzaya.ttc.journal.candidates import (
    PROMPT,
    SPANS,
    View,
    candidate_of,
    is_complete,
    view_of,
)
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import RowDamagedError
from openzaya.ttc.journal.prompts import Frame, texts_of
from openzaya.ttc.journal.rows import (
    VALUE,
    Entry,
    Place,
    TextAt,
    load_document,
    load_text,
    load_told,
)
from openzaya.ttc.place import Place as RunPlace

UNKNOWN_SPEC: View = {
    **dict.fromkeys(("model", "preset", "strategy"), ""),
    "question": [{"role": "user", "content": ""}],
    "config": {},
    "seed": None,
}
"""What is shown of a run when the row with its spec is damaged."""


@dataclass(slots=True)
class History:
    """The candidates and stages of a run, from its events."""

    run_id: str
    at_s: float = 0.0
    """When the last thing happened, in seconds since the start of the run."""
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What was told at the end of every complete stage."""
    damage: dict[int, str] = field(default_factory=dict)
    """What is wrong with rows that could not be read, by their number."""
    _newest: dict[Place, Entry] = field(default_factory=dict)
    """What was told last of every candidate."""
    _prompts: dict[Place, int] = field(default_factory=dict)
    """The numbers of the events with the frames of their prompts."""
    _texts: dict[int, TextAt] = field(default_factory=dict)
    """Where the texts of events are, by the number of the event."""

    @classmethod
    def of(cls, database: Database, run_id: str) -> Self:
        """Read what is known of a run; what damaged rows told is not."""
        history = cls(run_id)
        for row in load_told(database, run_id):
            history.add(row.seq, row.entries)
            if row.damage:
                history.damage[row.seq] = row.damage
        return history

    def add(self, row: int, entries: Sequence[Entry]) -> None:
        """Take in the events of a row of `told`."""
        begin = 0
        for entry in entries:
            seq, kind, at_us, length, value = entry[:5]
            self.at_s = max(self.at_s, at_us / 1e6)
            if length:
                self._texts[seq] = row, begin, length
                begin += length
            if kind == "stage":
                self.stages[value["stage"]] = value
            elif kind == "candidate":
                place = value, entry[5]
                self._newest[place] = entry
                if entry[VALUE + PROMPT] is not None:
                    self._prompts[place] = entry[VALUE + PROMPT]

    def __contains__(self, place: Place) -> bool:
        """Say whether anything was told of a candidate."""
        return place in self._newest

    def __iter__(self) -> Iterator[Place]:
        """Go through the candidates in order of stage and slot."""
        return iter(sorted(self._newest))

    def view(self, place: Place) -> View:
        """Return the facts of a candidate."""
        return view_of(self._newest[place][VALUE:])

    def views(self) -> list[View]:
        """Return the facts of every candidate, in order of stage and slot."""
        return [self.view(place) for place in self]

    def is_complete(self, place: Place) -> bool:
        """Say whether a candidate came to its end."""
        return place in self and is_complete(self.view(place))

    def running(self) -> list[View]:
        """Return the facts of the candidates that are on their way."""
        return [view for view in self.views() if view["state"] == "running"]

    def texts(self, database: Database, place: Place) -> dict[str, str]:
        """Return the texts of a complete candidate. Raises RowDamagedError."""
        if not self.is_complete(place):
            raise self._missing(place)
        entry = self._newest[place]
        return texts_of(self._text(database, entry[0]), entry[VALUE + SPANS])

    def lost(self, database: Database) -> list[Place]:
        """Return the complete candidates whose texts cannot be read any more."""
        lost = []
        for place in filter(self.is_complete, self):
            try:
                self.texts(database, place)
            except RowDamagedError:
                lost.append(place)
        return lost

    def recorded(self, database: Database) -> Recorded:
        """Return where a run goes on: candidates that cannot be read have to be generated again."""
        started, finished = [], []
        for place in self:
            view = self.view(place)
            started.append(RunPlace(*place, view["seed"], tuple(view["parents"])))
            if is_complete(view):
                with suppress(RowDamagedError):
                    finished.append(candidate_of(view, self.texts(database, place)))
        return Recorded(started, finished, self.at_s)

    def prompt(self, database: Database, place: Place) -> list[dict[str, Any]]:
        """Return the messages that a candidate was asked with, none when that is not known.

        Raises RowDamagedError.
        """
        if place not in self._prompts and not self.damage:
            return []
        if self._prompts.get(place) not in self._texts:
            raise self._missing(place)
        frame = Frame.from_text(self._text(database, self._prompts[place]))
        quoted = {number for _, number in frame.quotes}
        tails = [
            self.texts(database, (place[0] - 1, parent))["tail"] if number in quoted else ""
            for number, parent in enumerate(self.view(place)["parents"])
        ]
        return frame.prompt(tails)

    def _missing(self, place: Place) -> RowDamagedError:
        """Return the error for a candidate of which a damaged row told."""
        what = "candidate {}/{} of run {} is not known whole".format(*place, self.run_id)
        return RowDamagedError("; ".join([what, *self.damage.values()]))

    def _text(self, database: Database, seq: int) -> str:
        at = self._texts.get(seq)
        return load_text(database, self.run_id, at) if at else ""


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a run but the row that says who works on it."""

    spec: View
    """What began it, as JSON."""
    outcome: View
    """What is known of it beyond its candidates."""
    history: History
    damage: tuple[str, ...] = ()
    """What is wrong with rows that could not be read."""

    @classmethod
    def of(cls, database: Database, run_id: str) -> Self:
        """Read what can be read of it."""
        damage: list[str] = []
        spec = readable(database, run_id, "spec", damage)
        outcome = readable(database, run_id, "outcome", damage)
        history = History.of(database, run_id)
        return cls(spec, outcome, history, (*damage, *history.damage.values()))


def readable(database: Database, run_id: str, kind: str, damage: list[str]) -> View:
    """Return the `spec` or `outcome` of a run; where it is damaged one that says nothing.

    What is wrong is added to `damage`.
    """
    try:
        return load_document(database, run_id, kind)
    except RowDamagedError as error:
        damage.append(str(error))
        return dict(UNKNOWN_SPEC) if kind == "spec" else {}
