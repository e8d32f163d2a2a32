"""What the events of a run amount to: where every candidate stands, and its texts."""

from dataclasses import dataclass, field
from typing import Any, Self

from openzaya.ttc.journal.candidates import View, candidate_of, is_complete, view_of
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.prompts import Frame, shown_prompt, unpack_text
from openzaya.ttc.journal.rows import Place, load_bodies, load_content
from openzaya.ttc.result import Candidate


@dataclass(slots=True)
class Known:
    """A candidate by its newest event."""

    view: View
    started: int | None = None
    """Number of the event that began it last."""
    seq: int = 0
    """Number of its newest event."""


@dataclass(slots=True)
class History:
    """The candidates and stages of a run, from its events."""

    database: Database
    run_id: str
    candidates: dict[Place, Known] = field(default_factory=dict)
    """By stage and slot, in that order."""
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What was told at the end of every complete stage."""

    @classmethod
    def of(cls, database: Database, run_id: str) -> Self:
        """Read the events of a run. Raises JournalDamagedError."""
        history = cls(database, run_id)
        found: dict[Place, Known] = {}
        for seq, kind, body in load_bodies(database, run_id, ("candidate", "stage")):
            if kind == "stage":
                history.stages[body["stage"]] = body
                continue
            view = view_of(body)
            known = found.setdefault((view["stage"], view["slot"]), Known(view))
            known.view, known.seq = view, seq
            if view["state"] == "running":
                known.started = seq
        history.candidates = dict(sorted(found.items()))
        return history

    @property
    def views(self) -> list[View]:
        """The facts of every candidate, by stage and slot."""
        return [known.view for known in self.candidates.values()]

    @property
    def complete(self) -> set[Place]:
        """The candidates that came to their end."""
        return {place for place, known in self.candidates.items() if is_complete(known.view)}

    @property
    def running(self) -> list[View]:
        """The facts of the candidates that are on their way."""
        return [view for view in self.views if view["state"] == "running"]

    def texts(self, place: Place) -> dict[str, str]:
        """Return the texts of a complete candidate. Raises JournalDamagedError."""
        known = self.candidates[place]
        return unpack_text(load_content(self.database, self.run_id, known.seq))

    def candidate(self, place: Place) -> Candidate:
        """Return a complete candidate as the run had it. Raises JournalDamagedError."""
        return candidate_of(self.candidates[place].view, self.texts(place))

    def prompt(self, place: Place) -> list[dict[str, Any]]:
        """Return the messages that a candidate was asked with, none when that is not known."""
        known = self.candidates[place]
        if known.started is None:
            return []
        stored = load_content(self.database, self.run_id, known.started)
        if isinstance(stored, int):
            stored = load_content(self.database, self.run_id, stored)
        frame = Frame.from_json(stored)
        parents = known.view["parents"]
        quoted = {part for part in frame.parts if isinstance(part, int)}
        tails = [
            self.texts((place[0] - 1, parent))["tail"] if number in quoted else ""
            for number, parent in enumerate(parents)
        ]
        return shown_prompt(frame, tails)
