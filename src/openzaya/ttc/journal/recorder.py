"""What a run says, event by event, becomes rows."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from openzaya.ttc.events import (
    CandidateDone,
    CandidateProgress,
    CandidateStarted,
    Event,
    RunStarted,
    StageDone,
)
from openzaya.ttc.journal import leases
from openzaya.ttc.journal.candidates import (
    Values,
    View,
    cut_values,
    done_values,
    started_values,
    view_of,
)
from openzaya.ttc.journal.errors import JournalFullError
from openzaya.ttc.journal.history import History
from openzaya.ttc.journal.prompts import Frame, parts_of
from openzaya.ttc.journal.rows import Place, Row, delta_row, event_row
from openzaya.ttc.journal.sealed import seal, seal_text
from openzaya.ttc.journal.spec import Lease
from openzaya.ttc.journal.writer import Told, Write, Writer
from openzaya.ttc.result import Result

_ROW_BYTES = 1_000
"""What a write without long texts takes in memory, roughly."""


@dataclass(slots=True)
class _Open:
    """A candidate on its way."""

    queued_s: float | None
    started: Values | None = None
    """What was stored of its beginning."""
    first_token_s: float | None = None
    pieces: list[str] = field(default_factory=list)
    kept_tokens: int = 0
    is_cut: bool = False


@dataclass(slots=True, eq=False)
class Recorder:
    """Listens to one run; never waits for the disk."""

    lease: Lease
    writer: Writer
    max_pending_bytes: int
    progress_tokens: int
    spec: View
    """What began the run, as JSON."""
    outcome: View
    """What is known of the run; `Journal` writes it a last time at the end."""
    seq: int = 0
    """Number of the newest event."""
    on_lost: Callable[[], None] | None = None
    broken: Exception | None = None
    """Why this run can be written no more."""
    at_s: float = 0.0
    cached_tokens: int = 0
    """Prompt tokens that servers had computed before, where they tell."""
    complete: set[Place] = field(default_factory=set)
    """Candidates that an earlier lease completed."""
    ended_s: dict[int, float] = field(default_factory=dict)
    """When the stages that are complete were."""
    tails: dict[Place, str] = field(default_factory=dict)
    opened: dict[Place, _Open] = field(default_factory=dict)
    frames: dict[int, tuple[int, Frame]] = field(default_factory=dict)
    """By number of tails, what the newest prompt says around them, and the event that has it."""

    def go_on(self, history: History, seq: int) -> None:
        """Take in what earlier leases told."""
        self.seq = seq
        self.at_s = self.lease.begun_s
        self.complete = set(history.complete)
        self.cached_tokens = sum(v["cached_tokens"] or 0 for v in history.views.values())
        self.ended_s = {stage: entry["ended_s"] for stage, entry in history.stages.items()}

    def __call__(self, event: Event) -> None:
        """Take in one event. Raises LeaseLostError, JournalError or JournalFullError."""
        if self.broken is not None:
            raise self.broken
        if self.writer.pending_bytes > self.max_pending_bytes:
            raise self.writer.trouble or JournalFullError(
                f"more than {self.max_pending_bytes} bytes wait for the journal; its disk is too "
                "slow or full"
            )
        self.at_s = max(self.at_s, getattr(event, "at", 0.0))
        if isinstance(event, CandidateDone):
            self._candidate_done(event)
        elif isinstance(event, CandidateStarted):
            self._candidate_started(event)
        elif isinstance(event, CandidateProgress):
            self._candidate_progress(event)
        elif isinstance(event, StageDone):
            self._stage_done(event)
        elif isinstance(event, RunStarted):
            self._run_started(event)

    def end(self, state: str, facts: dict[str, Any]) -> Write:
        """Queue the end of the run, and return it to wait for."""
        self._cut_open(self.at_s)
        usage = facts.get("usage")
        if usage is not None:
            usage["cached"] = self.cached_tokens
        outcome = {**self.outcome, **facts, "elapsed_s": self.at_s}
        lease, seq, spec = self.lease, self._next(), self.spec
        write = Write(
            lambda db: leases.end(db, lease, seq, state, spec, outcome),
            run_id=lease.run_id,
            waits=True,
            on_error=self.lose,
            changes_leases=True,
        )
        self.writer.put(write)
        return write

    def lose(self, error: Exception) -> None:
        """Refuse everything from now on; called by the writer's thread."""
        if self.broken is None:
            self.broken = error
            if self.on_lost is not None:
                self.on_lost()

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def _tell(self, row: Row, *, durable: bool, drops: Place | None = None) -> None:
        """Queue an event; `drops` is a candidate whose pieces of before it are not needed."""
        content = row[-1]
        size = _ROW_BYTES + (len(content) if isinstance(content, str) else 0)
        dropped = None if drops is None else (drops, self.seq)
        self.writer.put(Told(self.lease, self.lose, size, durable, event=row, ended=dropped))

    def _run_started(self, event: RunStarted) -> None:
        self.outcome |= {
            "preview": asdict(event.preview),
            "question_tokens": event.question_tokens,
        }
        lease, seq, at_s = self.lease, self._next(), event.at
        spec, outcome = self.spec, dict(self.outcome)
        self.writer.put(
            Write(
                lambda db: leases.start(db, lease, seq, at_s, spec, outcome),
                run_id=lease.run_id,
                waits=True,
                is_waited_for=False,
                size=_ROW_BYTES,
                on_error=self.lose,
            )
        )

    def _candidate_started(self, event: CandidateStarted) -> None:
        place = (event.stage, event.slot)
        if event.recorded and place in self.complete:
            return
        run_id, seq = self.lease.run_id, self._next()
        tails = [self.tails.get((event.stage - 1, slot), "") for slot in event.parents]
        prompt, frame = self.frames.get(len(tails), (0, None))
        content = None
        if frame is None or not frame.fits(event.messages, tails):
            prompt, frame = self.frames[len(tails)] = seq, Frame.of(event.messages, tails)
            content = seal(frame.to_json(), run_id, seq, "content")
        values = started_values(event, prompt)
        self.opened[place] = _Open(event.at, values)
        row = event_row(run_id, seq, "candidate", event.at, values, place, content)
        # Only an earlier lease can have left pieces of a candidate that begins.
        self._tell(row, durable=False, drops=place if event.recorded else None)

    def _candidate_progress(self, event: CandidateProgress) -> None:
        place = (event.stage, event.slot)
        known = self.opened.setdefault(place, _Open(event.at))
        if known.first_token_s is None:
            known.first_token_s = event.at
        known.pieces.append(event.text)
        if event.num_tokens - known.kept_tokens < self.progress_tokens:
            return
        text = "".join(known.pieces)
        known.pieces.clear()
        known.kept_tokens = event.num_tokens
        value = {
            "stage": event.stage,
            "slot": event.slot,
            "num_tokens": event.num_tokens,
            "text": text,
        }
        row = delta_row(self.lease.run_id, self._next(), place, value)
        size = _ROW_BYTES + len(text)
        self.writer.put(Told(self.lease, self.lose, size, is_durable=False, delta=row))

    def _candidate_done(self, event: CandidateDone) -> None:
        place, candidate = (event.stage, event.slot), event.candidate
        known = self.opened.pop(place, None) or _Open(None)
        self.tails[place] = candidate.tail
        if event.recorded and place in self.complete:
            return
        if candidate.served is not None:
            self.cached_tokens += candidate.served.num_cached_tokens or 0
        run_id, seq = self.lease.run_id, self._next()
        values = done_values(event, known.queued_s, known.first_token_s)
        content = seal_text(candidate.text, parts_of(candidate), run_id, seq, "content")
        row = event_row(run_id, seq, "candidate", event.at, values, place, content)
        self._tell(row, durable=True, drops=place if known.kept_tokens else None)

    def _stage_done(self, event: StageDone) -> None:
        self._cut_open(event.at, event.stage)
        entry = {
            "stage": event.stage,
            "answers": dict(event.answers),
            "num_tokens": event.num_tokens,
            "ended_s": self.ended_s.setdefault(event.stage, event.at),
        }
        for place in [p for p in self.tails if p[0] < event.stage - 1]:
            del self.tails[place]
        row = event_row(
            self.lease.run_id, self._next(), "stage", event.at, entry, (event.stage, None)
        )
        self._tell(row, durable=True)

    def _cut_open(self, at_s: float, stage: int | None = None) -> None:
        """Tell that nobody waits any more for what is running, in one stage or in all."""
        for place, known in self.opened.items():
            if known.started is None or known.is_cut or stage not in (None, place[0]):
                continue
            known.is_cut = True
            values, run_id = cut_values(view_of(known.started), at_s), self.lease.run_id
            row = event_row(run_id, self._next(), "candidate", at_s, values, place)
            self._tell(row, durable=False)


def outcome_of(result: Result) -> View:
    """Return what the journal keeps of a result beyond its candidates."""
    chosen = result.chosen
    return {
        "answer": result.answer,
        "why": result.why,
        "degraded": result.degraded,
        "usage": {**asdict(result.usage), "generated": result.usage.generated},
        "winner": chosen and {"stage": chosen.stage, "slot": chosen.slot},
        "notes": list(result.notes),
        "template_sha256": result.template_sha256,
        "tail_method": result.tail_method,
    }
