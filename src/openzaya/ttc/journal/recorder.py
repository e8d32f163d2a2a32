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
from openzaya.ttc.journal.candidates import cut_open, done_view, started_view
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalFullError
from openzaya.ttc.journal.prompts import pack_prompt, pack_text
from openzaya.ttc.journal.rows import (
    claim,
    drop_deltas,
    save_content,
    save_delta,
    save_document,
    save_event,
    save_facts,
    set_state,
)
from openzaya.ttc.journal.spec import Lease
from openzaya.ttc.journal.views import summary
from openzaya.ttc.journal.writer import Write, Writer

Place = tuple[int, int]
_ROW_BYTES = 1_000
"""What a write without long texts takes in memory, roughly."""


@dataclass(slots=True)
class _Open:
    """A candidate on its way."""

    queued_s: float
    first_token_s: float | None = None
    pieces: list[str] = field(default_factory=list)
    kept_tokens: int = 0


@dataclass(slots=True, eq=False)
class Recorder:
    """Listens to one run; never waits for the disk."""

    lease: Lease
    writer: Writer
    lease_s: float
    max_pending_bytes: int
    progress_tokens: int
    outcome: dict[str, Any]
    """What is known of the run; `Journal` writes it a last time at the end."""
    on_lost: Callable[[], None] | None = None
    broken: Exception | None = None
    """Why this run can be written no more."""
    at_s: float = 0.0
    complete: set[Place] = field(default_factory=set)
    """Candidates that an earlier lease completed."""
    tails: dict[Place, str] = field(default_factory=dict)
    opened: dict[Place, _Open] = field(default_factory=dict)

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
        if isinstance(event, RunStarted):
            self._run_started(event)
        elif isinstance(event, CandidateStarted):
            self._candidate_started(event)
        elif isinstance(event, CandidateProgress):
            self._candidate_progress(event)
        elif isinstance(event, CandidateDone):
            self._candidate_done(event)
        elif isinstance(event, StageDone):
            self._stage_done(event)

    def put(
        self, apply: Callable[[Database, int], Any], num_events: int, size: int, durable: bool
    ) -> None:
        """Queue a write that gets the number of its first event, if the lease still holds."""

        def apply_claimed(database: Database) -> Any:
            expires_s = database.now_s() + self.lease_s
            return apply(database, claim(database, self.lease, num_events, expires_s) + 1)

        self.writer.put(
            Write(
                apply_claimed,
                run_id=self.lease.run_id,
                is_durable=durable,
                waits=True,
                size=size + _ROW_BYTES,
                on_error=self.lose,
            )
        )

    def lose(self, error: Exception) -> None:
        """Refuse everything from now on; called by the writer's thread."""
        if self.broken is None:
            self.broken = error
            if self.on_lost is not None:
                self.on_lost()

    def _run_started(self, event: RunStarted) -> None:
        self.outcome |= {
            "preview": asdict(event.preview),
            "question_tokens": event.question_tokens,
        }
        run_id, outcome, at = self.lease.run_id, dict(self.outcome), event.at

        def apply(database: Database, seq: int) -> None:
            set_state(database, run_id, "running")
            save_document(database, run_id, "outcome", outcome)
            save_event(database, run_id, seq, "run", at, summary(database, run_id))

        self.put(apply, 1, 0, durable=True)

    def _candidate_started(self, event: CandidateStarted) -> None:
        place = (event.stage, event.slot)
        if event.recorded and place in self.complete:
            return
        self.opened[place] = _Open(event.at)
        run_id, view = self.lease.run_id, started_view(event)
        tails = {slot: self.tails.get((event.stage - 1, slot), "") for slot in event.parents}

        def apply(database: Database, seq: int) -> None:
            save_facts(database, run_id, view)
            drop_deltas(database, run_id, *place)
            packed = pack_prompt(event.messages, event.parents, tails)
            save_content(database, run_id, *place, "prompt", packed)
            save_event(database, run_id, seq, "candidate", event.at, view)

        self.put(apply, 1, sum(len(m.content) for m in event.messages), durable=False)

    def _candidate_progress(self, event: CandidateProgress) -> None:
        place = (event.stage, event.slot)
        known = self.opened.setdefault(place, _Open(event.at))
        if known.first_token_s is None:
            known.first_token_s = event.at
        known.pieces.append(event.text)
        if event.num_tokens - known.kept_tokens < self.progress_tokens:
            return
        text, run_id = "".join(known.pieces), self.lease.run_id
        known.pieces.clear()
        known.kept_tokens = event.num_tokens
        value = {
            "stage": event.stage,
            "slot": event.slot,
            "num_tokens": event.num_tokens,
            "text": text,
        }
        self.put(
            lambda database, seq: save_delta(database, run_id, seq, place, value),
            1,
            len(text),
            durable=False,
        )

    def _candidate_done(self, event: CandidateDone) -> None:
        place = (event.stage, event.slot)
        known = self.opened.pop(place, None)
        self.tails[place] = event.candidate.tail
        if event.recorded and place in self.complete:
            return
        run_id, candidate = self.lease.run_id, event.candidate
        view = done_view(
            event, known.queued_s if known else None, known.first_token_s if known else None
        )

        def apply(database: Database, seq: int) -> None:
            save_facts(database, run_id, view)
            save_content(database, run_id, *place, "text", pack_text(candidate))
            drop_deltas(database, run_id, *place)
            save_event(database, run_id, seq, "candidate", event.at, view)

        self.put(apply, 1, len(candidate.text), durable=True)

    def _stage_done(self, event: StageDone) -> None:
        stages = [s for s in self.outcome.get("stages", []) if s["stage"] != event.stage]
        known = {s["stage"]: s["ended_s"] for s in self.outcome.get("stages", [])}
        entry = {
            "stage": event.stage,
            "answers": dict(event.answers),
            "num_tokens": event.num_tokens,
            "ended_s": known.get(event.stage, event.at),
        }
        self.outcome["stages"] = sorted([*stages, entry], key=lambda s: int(s["stage"]))
        for place in [p for p in self.tails if p[0] < event.stage - 1]:
            del self.tails[place]
        run_id, outcome, at = self.lease.run_id, dict(self.outcome), event.at

        def apply(database: Database, seq: int) -> None:
            cut_open(database, run_id, at, event.stage)
            save_document(database, run_id, "outcome", outcome)
            save_event(database, run_id, seq, "stage", at, entry)

        self.put(apply, 1, 0, durable=True)
