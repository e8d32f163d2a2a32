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
from openzaya.ttc.journal.candidates import View, cut_facts, done_facts, started_facts
from openzaya.ttc.journal.errors import JournalFullError
from openzaya.ttc.journal.history import History
from openzaya.ttc.journal.prompts import Frame, pack_text
from openzaya.ttc.journal.rows import Place, delta_row, event_row
from openzaya.ttc.journal.spec import Lease
from openzaya.ttc.journal.writer import Told, Write, Writer

_ROW_BYTES = 1_000
"""What a write without long texts takes in memory, roughly."""


@dataclass(slots=True)
class _Open:
    """A candidate on its way."""

    facts: View
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
    outcome: dict[str, Any]
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
        self.complete = history.complete
        self.cached_tokens = sum(view["cached_tokens"] or 0 for view in history.views)
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
        lease, seq = self.lease, self._next()
        write = Write(
            lambda db: leases.end(db, lease, seq, state, outcome),
            run_id=lease.run_id,
            waits=True,
            on_error=self.lose,
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

    def _tell(
        self,
        seq: int,
        kind: str,
        at_s: float,
        body: object,
        content: object = None,
        ended: Place | None = None,
        *,
        durable: bool,
    ) -> None:
        row = event_row(self.lease.run_id, seq, kind, at_s, body, content)
        size = _ROW_BYTES + (len(row[-1]) if isinstance(row[-1], str) else 0)
        dropped = None if ended is None else (ended, seq)
        self.writer.put(Told(self.lease, self.lose, size, durable, event=row, ended=dropped))

    def _run_started(self, event: RunStarted) -> None:
        self.outcome |= {
            "preview": asdict(event.preview),
            "question_tokens": event.question_tokens,
        }
        lease, seq, outcome, at_s = self.lease, self._next(), dict(self.outcome), event.at
        self.writer.put(
            Write(
                lambda db: leases.start(db, lease, seq, at_s, outcome),
                run_id=lease.run_id,
                waits=True,
                size=_ROW_BYTES,
                on_error=self.lose,
            )
        )

    def _candidate_started(self, event: CandidateStarted) -> None:
        place = (event.stage, event.slot)
        if event.recorded and place in self.complete:
            return
        facts, seq = started_facts(event), self._next()
        self.opened[place] = _Open(facts)
        # Only an earlier lease can have left pieces of a candidate that begins.
        dropped = place if event.recorded else None
        prompt = self._prompt(event, seq)
        self._tell(seq, "candidate", event.at, facts, prompt, dropped, durable=False)

    def _prompt(self, event: CandidateStarted, seq: int) -> object:
        """Return what is stored of a prompt: its frame, or the number of the event that has it."""
        tails = [self.tails.get((event.stage - 1, slot), "") for slot in event.parents]
        known = self.frames.get(len(tails))
        if known is not None and known[1].fits(event.messages, tails):
            return known[0]
        frame = Frame.of(event.messages, tails)
        self.frames[len(tails)] = (seq, frame)
        return frame.to_json()

    def _candidate_progress(self, event: CandidateProgress) -> None:
        place = (event.stage, event.slot)
        known = self.opened.setdefault(place, _Open({"queued_s": event.at}))
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
        known = self.opened.pop(place, None)
        self.tails[place] = candidate.tail
        if event.recorded and place in self.complete:
            return
        if candidate.served is not None:
            self.cached_tokens += candidate.served.num_cached_tokens or 0
        facts = done_facts(
            event,
            known.facts["queued_s"] if known else None,
            known.first_token_s if known else None,
        )
        dropped = place if known is not None and known.kept_tokens else None
        texts = pack_text(candidate)
        self._tell(self._next(), "candidate", event.at, facts, texts, dropped, durable=True)

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
        self._tell(self._next(), "stage", event.at, entry, durable=True)

    def _cut_open(self, at_s: float, stage: int | None = None) -> None:
        """Tell that nobody waits any more for what is running, in one stage or in all."""
        for place, known in self.opened.items():
            if known.is_cut or stage not in (None, place[0]) or "seed" not in known.facts:
                continue
            known.is_cut = True
            self._tell(self._next(), "candidate", at_s, cut_facts(known.facts, at_s), durable=False)
