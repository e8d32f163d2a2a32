"""What the events of a run amount to: where every candidate stands, and where its texts are."""

from collections.abc import Iterator, Sequence
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
from openzaya.ttc.journal.prompts import Frame, texts_of
from openzaya.ttc.journal.rows import (
    VALUE,
    Entry,
    Place,
    TextAt,
    load_document,
    load_outcome,
    load_text,
    load_told,
)
from openzaya.ttc.place import Place as RunPlace


@dataclass(slots=True)
class History:
    """The candidates and stages of a run, from its events."""

    run_id: str
    at_s: float = 0.0
    """When the last thing happened, in seconds since the start of the run."""
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What was told at the end of every complete stage."""
    _newest: dict[Place, Entry] = field(default_factory=dict)
    """What was told last of every candidate."""
    _prompts: dict[Place, int] = field(default_factory=dict)
    """The numbers of the events with the frames of their prompts."""
    _texts: dict[int, TextAt] = field(default_factory=dict)
    """Where the texts of events are, by the number of the event."""

    @classmethod
    def of(cls, database: Database, run_id: str) -> Self:
        """Read what is known of a run. Raises JournalDamagedError."""
        history = cls(run_id)
        for row, entries in load_told(database, run_id):
            history.add(row, entries)
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
        """Return the texts of a complete candidate. Raises JournalDamagedError."""
        entry = self._newest[place]
        return texts_of(self._text(database, entry[0]), entry[VALUE + SPANS])

    def recorded(self, database: Database) -> Recorded:
        """Return where a run goes on. Raises JournalDamagedError."""
        started, finished = [], []
        for place in self:
            view = self.view(place)
            started.append(RunPlace(*place, view["seed"], tuple(view["parents"])))
            if is_complete(view):
                finished.append(candidate_of(view, self.texts(database, place)))
        return Recorded(started, finished, self.at_s)

    def prompt(self, database: Database, place: Place) -> list[dict[str, Any]]:
        """Return the messages that a candidate was asked with, none when that is not known."""
        if place not in self._prompts:
            return []
        frame = Frame.from_text(self._text(database, self._prompts[place]))
        quoted = {number for _, number in frame.quotes}
        tails = [
            self.texts(database, (place[0] - 1, parent))["tail"] if number in quoted else ""
            for number, parent in enumerate(self.view(place)["parents"])
        ]
        return frame.prompt(tails)

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

    @classmethod
    def of(cls, database: Database, run_id: str) -> Self:
        """Read it. Raises JournalDamagedError."""
        spec, outcome = load_document(database, run_id, "spec"), load_outcome(database, run_id)
        return cls(spec, outcome, History.of(database, run_id))
