"""What the events of a run amount to: where every candidate stands, and its texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from openzaya.ttc.journal.candidates import PROMPT, View, candidate_of, is_complete, view_of
from openzaya.ttc.journal.database import Database, Value
from openzaya.ttc.journal.prompts import Frame, shown_prompt, texts_of
from openzaya.ttc.journal.rows import Place, load_bodies, load_content
from openzaya.ttc.journal.sealed import unseal, unseal_text
from openzaya.ttc.result import Candidate

# Of every candidate the newest event alone.
_NEWEST = (
    "AND kind IN ('candidate', 'stage') AND seq IN "
    "(SELECT MAX(seq) FROM event WHERE run = ? GROUP BY kind, stage, slot)"
)


@dataclass(slots=True)
class History:
    """The candidates and stages of a run, from its events."""

    database: Database
    run_id: str
    views: dict[Place, View] = field(default_factory=dict)
    """The facts of every candidate, by stage and slot and in that order."""
    seqs: dict[Place, int] = field(default_factory=dict)
    """The numbers of their newest events."""
    prompts: dict[Place, int] = field(default_factory=dict)
    """The numbers of the events with the frames of their prompts; only `around` finds them."""
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What was told at the end of every complete stage."""

    @classmethod
    def of(cls, database: Database, run_id: str) -> Self:
        """Read what is known of a run. Raises JournalDamagedError."""
        return cls(database, run_id)._read(_NEWEST, (run_id,))

    @classmethod
    def around(cls, database: Database, run_id: str, place: Place) -> Self:
        """Read what is known of one candidate, and of those whose tails it saw."""
        history = cls.alone(database, run_id, place)
        if place in history.views:
            history._read_places(place[0] - 1, history.views[place]["parents"])
        return history

    @classmethod
    def alone(cls, database: Database, run_id: str, place: Place) -> Self:
        """Read what is known of one candidate."""
        history = cls(database, run_id)
        history._read_places(place[0], (place[1],))
        return history

    def _read_places(self, stage: int, slots: Sequence[int]) -> None:
        marks = ", ".join("?" * len(slots))
        where = f"AND kind = 'candidate' AND stage = ? AND slot IN ({marks})"
        if slots:
            self._read(where, (stage, *slots))

    def _read(self, where: str, values: Sequence[Value]) -> Self:
        found: dict[Place, View] = dict(self.views)
        for seq, kind, body in load_bodies(self.database, self.run_id, where, values):
            if kind == "stage":
                self.stages[body["stage"]] = body
                continue
            view = view_of(body)
            place = view["stage"], view["slot"]
            found[place] = view
            self.seqs[place] = seq
            if body[PROMPT] is not None:
                self.prompts[place] = body[PROMPT]
        self.views = dict(sorted(found.items()))
        return self

    @property
    def complete(self) -> list[Place]:
        """The candidates that came to their end."""
        return [place for place, view in self.views.items() if is_complete(view)]

    @property
    def running(self) -> list[View]:
        """The facts of the candidates that are on their way."""
        return [view for view in self.views.values() if view["state"] == "running"]

    def texts(self, place: Place) -> dict[str, str]:
        """Return the texts of a complete candidate. Raises JournalDamagedError."""
        seq = self.seqs[place]
        stored = load_content(self.database, self.run_id, seq)
        return texts_of(*unseal_text(stored, self.run_id, seq, "content"))

    def candidate(self, place: Place) -> Candidate:
        """Return a complete candidate as the run had it. Raises JournalDamagedError."""
        return candidate_of(self.views[place], self.texts(place))

    def prompt(self, place: Place) -> list[dict[str, Any]]:
        """Return the messages that a candidate was asked with, none when that is not known.

        It needs `around`.
        """
        seq = self.prompts.get(place)
        if seq is None:
            return []
        stored = load_content(self.database, self.run_id, seq)
        frame = Frame.from_json(unseal(stored, self.run_id, seq, "content"))
        quoted = {part for part in frame.parts if isinstance(part, int)}
        tails = [
            self.texts((place[0] - 1, parent))["tail"] if number in quoted else ""
            for number, parent in enumerate(self.views[place]["parents"])
        ]
        return shown_prompt(frame, tails)
