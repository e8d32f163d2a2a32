"""What a run says, event by event, becomes rows.

The event loop only hands events over; all else is done in the writer's thread, for many at a time.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from openzaya.ttc.events import (
    CandidateDone,
    CandidateProgress,
    CandidateStarted,
    Event,
    RunDone,
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
    whole_us,
)
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalFullError
from openzaya.ttc.journal.history import Record
from openzaya.ttc.journal.prompts import Frame, text_of
from openzaya.ttc.journal.rows import Entry, Place, Row, delta_row, told_row
from openzaya.ttc.journal.sealed import decode, encode
from openzaya.ttc.journal.spec import Kind, Lease
from openzaya.ttc.journal.views import summary, usage_so_far
from openzaya.ttc.journal.writer import Told, Write, Writer
from openzaya.ttc.result import Result

_EVENT_BYTES = 1_000
"""What an event without long texts takes in memory, roughly."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last that is told of a run."""

    state: str
    facts: View
    """What is added to the outcome."""


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
    record: Record
    """What is known of the run: what earlier leases told, and what this one did."""
    seq: int = 0
    """Number of the newest event."""
    on_lost: Callable[[], None] | None = None
    broken: Exception | None = None
    """Why this run can be written no more."""
    at_s: float = 0.0
    cached_tokens: int = 0
    """Prompt tokens that servers had computed before, where they tell."""
    tails: dict[Place, str] = field(default_factory=dict)
    opened: dict[Place, _Open] = field(default_factory=dict)
    frames: dict[int, tuple[int, Frame]] = field(default_factory=dict)
    """By number of tails, what the newest prompt says around them, and the event that has it."""
    entries: list[Entry] = field(default_factory=list)
    """Events that belong to no row yet."""
    texts: list[str] = field(default_factory=list)
    """The texts of those that have one."""
    rows: list[Row] = field(default_factory=list)
    """What is not handed to the writer yet, with the next three."""
    deltas: list[Row] = field(default_factory=list)
    dropped: list[tuple[Place, int]] = field(default_factory=list)
    is_durable: bool = False
    last: Row = ()
    """The row that tells of the end."""

    def __post_init__(self) -> None:
        """Begin where earlier leases ended."""
        self.at_s = self.lease.begun_s
        self.cached_tokens = sum(v["cached_tokens"] or 0 for v in self.record.history.views())

    @property
    def is_new(self) -> bool:
        """Whether nothing was told of the run, by this lease or an earlier one."""
        return self.lease.epoch == 1 and self.seq == 0

    def __call__(self, event: Event) -> None:
        """Take in one event. Raises LeaseLostError, JournalError or JournalFullError."""
        if self.broken is not None:
            raise self.broken
        if self.writer.pending_bytes > self.max_pending_bytes:
            raise self.writer.trouble or JournalFullError(
                f"more than {self.max_pending_bytes} bytes wait for the journal; its disk is too "
                "slow or full"
            )
        if isinstance(event, RunDone):  # told by who calls `end`, with the whole result
            return
        size = _EVENT_BYTES
        if isinstance(event, CandidateDone):
            size += len(event.candidate.text)
        elif isinstance(event, CandidateProgress):
            size += len(event.text)
        self.writer.tell(self, event, size)
        if isinstance(event, RunStarted):
            self.writer.put(
                Write(
                    lambda db: leases.start(db, self.lease, self.record.outcome),
                    run_id=self.lease.run_id,
                    waits=True,
                    is_waited_for=False,
                    on_error=self.lose,
                )
            )

    def end(self, state: str, facts: View) -> Write:
        """Queue the end of the run, and return it to wait for."""
        self.writer.tell(self, Ended(state, facts), _EVENT_BYTES)
        write = Write(
            lambda db: self._end(db, state),
            run_id=self.lease.run_id,
            waits=True,
            on_error=self.lose,
            changes_leases=True,
        )
        self.writer.put(write)
        return write

    def _end(self, database: Database, state: str) -> None:
        if self.broken is not None:
            raise self.broken
        leases.end(database, self.lease, state, self.record.outcome, self.last)

    def lose(self, error: Exception) -> None:
        """Refuse everything from now on; called by the writer's thread."""
        if self.broken is None:
            self.broken = error
            if self.on_lost is not None:
                self.on_lost()

    # -- in the writer's thread

    def take(self, event: Event | Ended) -> None:
        """Turn an event into an entry of the row to come."""
        if not isinstance(event, Ended):
            self.at_s = max(self.at_s, event.at)
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
        elif isinstance(event, Ended):
            self._ended(event)

    def hand_over(self) -> Told:
        """Return what was taken in since the last time, as rows."""
        if self.entries:
            self.rows.append(self._row())
        told = Told(self.lease, self.lose, self.rows, self.deltas, self.dropped, self.is_durable)
        self.rows, self.deltas, self.dropped, self.is_durable = [], [], [], False
        return told

    def _row(self) -> Row:
        """Return the entries so far as a row."""
        row = told_row(self.lease.run_id, self.entries, self.texts)
        self.record.history.add(self.entries[-1][0], self.entries)
        self.entries, self.texts = [], []
        return row

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def _tell(self, kind: Kind, at_s: float, value: list[Any], text: str = "") -> int:
        """Add an event and its text; return its number."""
        seq = self._next()
        self.entries.append([seq, kind, whole_us(at_s), len(text), *value])
        if text:
            self.texts.append(text)
        return seq

    def _run_started(self, event: RunStarted) -> None:
        outcome, lease = self.record.outcome, self.lease
        outcome["preview"] = _plain(asdict(event.preview))
        outcome["question_tokens"] = event.question_tokens
        usage = usage_so_far(self.record.history.views(), outcome)
        so_far = {"usage": usage, "elapsed_s": event.at, **outcome}
        shown = summary(lease.run_id, lease.created_s, "running", self.record.spec, so_far)
        self._tell("run", event.at, [shown])

    def _candidate_started(self, event: CandidateStarted) -> None:
        place = (event.stage, event.slot)
        if event.recorded and self.record.history.is_complete(place):
            return
        tails = [self.tails.get((event.stage - 1, slot), "") for slot in event.parents]
        prompt, frame = self.frames.get(len(tails), (0, None))
        text = ""
        if frame is None or not frame.fits(event.messages, tails):
            frame = Frame.of(event.messages, tails)
            prompt, text = self.seq + 1, frame.to_text()
            self.frames[len(tails)] = prompt, frame
        values = started_values(event, prompt)
        self.opened[place] = _Open(event.at, values)
        seq = self._tell("candidate", event.at, values, text)
        if event.recorded:  # only an earlier lease can have left pieces of one that begins
            self.dropped.append((place, seq))

    def _candidate_progress(self, event: CandidateProgress) -> None:
        place = (event.stage, event.slot)
        known = self.opened.setdefault(place, _Open(event.at))
        if known.first_token_s is None:
            known.first_token_s = event.at
        known.pieces.append(event.text)
        since = event.num_tokens - known.kept_tokens
        if known.kept_tokens and since < self.progress_tokens:  # the first says that it is begun
            return
        value = {
            "stage": event.stage,
            "slot": event.slot,
            "num_tokens": event.num_tokens,
            "text": "".join(known.pieces),
        }
        known.pieces.clear()
        known.kept_tokens = event.num_tokens
        self.deltas.append(delta_row(self.lease.run_id, self._next(), place, value))

    def _candidate_done(self, event: CandidateDone) -> None:
        candidate = event.candidate
        place = candidate.stage, candidate.slot
        known = self.opened.pop(place, None) or _Open(None)
        self.tails[place] = candidate.tail
        if event.recorded and self.record.history.is_complete(place):
            return
        if candidate.served is not None:
            self.cached_tokens += candidate.served.num_cached_tokens or 0
        text, spans = text_of(candidate)
        values = done_values(event, known.queued_s, known.first_token_s, spans)
        seq = self._tell("candidate", event.at, values, text)
        self.is_durable = True
        if known.kept_tokens:
            self.dropped.append((place, seq))

    def _stage_done(self, event: StageDone) -> None:
        self._cut_open(event.at, event.stage)
        before = self.record.history.stages.get(event.stage)
        entry = {
            "stage": event.stage,
            "answers": dict(event.answers),
            "num_tokens": event.num_tokens,
            "ended_s": before["ended_s"] if before else event.at,
        }
        for place in [p for p in self.tails if p[0] < event.stage - 1]:
            del self.tails[place]
        self._tell("stage", event.at, [entry])
        self.is_durable = True

    def _cut_open(self, at_s: float, stage: int | None = None) -> None:
        """Tell that nobody waits any more for what is running, in one stage or in all."""
        for place, known in self.opened.items():
            if known.started is None or known.is_cut or stage not in (None, place[0]):
                continue
            known.is_cut = True
            self._tell("candidate", at_s, cut_values(view_of([*known.started]), at_s))

    def _ended(self, event: Ended) -> None:
        self._cut_open(self.at_s)
        if self.entries:
            self.rows.append(self._row())
        lease, outcome = self.lease, self.record.outcome
        outcome |= {**_plain(event.facts), "elapsed_s": round(self.at_s, 6)}
        shown = outcome
        if "usage" in outcome:
            outcome["usage"]["cached"] = self.cached_tokens
        else:
            shown = {"usage": usage_so_far(self.record.history.views(), outcome), **outcome}
        done = summary(lease.run_id, lease.created_s, event.state, self.record.spec, shown)
        self._tell("done", self.at_s, [done])
        self.last = self._row()


def _plain(value: Any) -> Any:
    """Return a value as it will be read back: lists for tuples."""
    return decode(encode(value))[0]


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
