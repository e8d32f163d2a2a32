"""What a run reports while it works: one record per thing that happened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from openzaya.ttc.budget import Preview
from openzaya.ttc.strategies import MarkovianRSAConfig


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The settings fit the model and the first calls are about to leave."""

    config: MarkovianRSAConfig
    preview: Preview
    question_tokens: int


@dataclass(frozen=True, slots=True)
class CandidateDone:
    """One candidate is complete, or was given up."""

    stage: int
    slot: int
    num_tokens: int
    """Newly generated tokens of this candidate."""
    answer: str | None
    """Extracted answer; None when it did not finish or holds none."""
    failed: bool
    total_tokens: int
    """Newly generated tokens of the run so far."""


@dataclass(frozen=True, slots=True)
class StageDone:
    """Every candidate of a stage is complete, failed or cancelled."""

    stage: int
    answers: Mapping[str, int]
    """How many candidates gave each answer, most frequent first."""
    num_tokens: int
    """Newly generated tokens of this stage."""


@dataclass(frozen=True, slots=True)
class RunDone:
    """The answer is chosen."""

    answer: str | None
    why: str
    num_tokens: int
    degraded: bool
    interrupted: bool


Event = RunStarted | CandidateDone | StageDone | RunDone
OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Drop an event: the default listener."""
