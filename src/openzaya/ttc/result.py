"""The record of a run: every candidate, who saw whose tail, the answer and the reason for it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from openzaya.core.records import FinishReason, Served
from openzaya.ttc.budget import Usage
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.place import Place
from openzaya.ttc.selection import histogram

SCHEMA = 1
"""Version of the JSON form of a result."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trace of one stage."""

    stage: int
    slot: int
    seed: int
    parents: tuple[int, ...]
    """Slots of the stage before whose tails this candidate saw, in prompt order."""
    text: str
    """Everything generated, as the model wrote it; empty for a failed candidate."""
    thinking: str
    answer_text: str
    """What follows the think block; empty while it is open."""
    answer: str | None
    """Extracted answer; None when the candidate did not finish or holds none."""
    tail: str
    """What the next stage may see of this trace."""
    is_finished: bool
    """The model ended by itself, after its think block."""
    is_looping: bool
    """The tail repeats itself so much that it is only shown when nothing else is left."""
    num_tokens: int
    """Newly generated tokens."""
    num_prompt_tokens: int
    finish_reason: FinishReason
    attempts: int
    error: str = ""
    """Why the candidate was given up; empty for a usable one."""
    served: Served | None = field(default=None, compare=False, repr=False)
    """Who completed it over a network, and when: no part of the result."""

    @property
    def is_failed(self) -> bool:
        """Whether every try of this candidate failed."""
        return bool(self.error)

    def to_json(self) -> dict[str, Any]:
        """Return what belongs to the result as JSON-compatible values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "served"}


def unwritten(
    place: Place, finish_reason: FinishReason, attempts: int = 0, error: str = ""
) -> Candidate:
    """Return a candidate that wrote nothing."""
    return Candidate(
        stage=place.stage,
        slot=place.slot,
        seed=place.seed,
        parents=place.parents,
        text="",
        thinking="",
        answer_text="",
        answer=None,
        tail="",
        is_finished=False,
        is_looping=False,
        num_tokens=0,
        num_prompt_tokens=0,
        finish_reason=finish_reason,
        attempts=attempts,
        error=error,
    )


@dataclass(frozen=True, slots=True)
class Round:
    """One stage: stage 0 answers the question, later ones aggregate."""

    stage: int
    candidates: tuple[Candidate, ...]
    """In slot order. A stage that was interrupted holds the complete ones only."""

    @property
    def survivors(self) -> tuple[Candidate, ...]:
        """The candidates that did not fail."""
        return tuple(c for c in self.candidates if not c.is_failed)

    @property
    def answers(self) -> Mapping[str, int]:
        """How many candidates gave each answer, most frequent first."""
        return histogram([c.answer for c in self.candidates])


@dataclass(frozen=True, slots=True)
class Result:
    """The answer of a run and everything that led to it."""

    answer: str | None
    """Normalized answer; None when no candidate holds one."""
    chosen: Candidate | None
    """The candidate that gives the answer; None when the run was stopped before there was one."""
    why: str
    """The rule that chose it."""
    rounds: tuple[Round, ...]
    usage: Usage
    config: MarkovianRSAConfig
    seed: int
    template_sha256: str
    """Hash of the aggregation template that built the prompts."""
    tail_method: str
    """How the sampler cut tails: exact, or an approximation that it names."""
    degraded: bool
    """Some candidate was lost, or the run ended before its last stage because of failures."""
    interrupted: bool
    """The caller stopped the run; the answer is the best there was."""
    notes: tuple[str, ...] = ()
    """What went differently than asked, one sentence each."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-compatible values, answers of every stage included."""
        chosen = self.chosen
        rounds = [
            {
                "stage": r.stage,
                "answers": dict(r.answers),
                "candidates": [c.to_json() for c in r.candidates],
            }
            for r in self.rounds
        ]
        return {
            "schema": SCHEMA,
            "answer": self.answer,
            "why": self.why,
            "chosen": chosen and {"stage": chosen.stage, "slot": chosen.slot},
            "answer_text": chosen.answer_text if chosen else "",
            "degraded": self.degraded,
            "interrupted": self.interrupted,
            "notes": list(self.notes),
            "seed": self.seed,
            "config": asdict(self.config),
            "template_sha256": self.template_sha256,
            "tail_method": self.tail_method,
            "usage": {**asdict(self.usage), "generated": self.usage.generated},
            "rounds": rounds,
        }
