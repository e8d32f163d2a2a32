"""What a run reports while it works: one record per thing that happened.

Every event says `at`: seconds since the start of the run, on a clock that never goes back. A run
that goes on after a stop counts on from where the record ends. What comes out of the record of an
earlier process is told again, marked `recorded`, so that a listener sees the whole run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from openzaya.core.records import Message
from openzaya.ttc.budget import Preview, Usage
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.place import Place
from openzaya.ttc.result import Candidate


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The settings fit the model and the first calls are about to leave."""

    config: MarkovianRSAConfig
    preview: Preview
    question_tokens: int
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class CandidateStarted:
    """A candidate has its prompt and is handed to the sampler; on resume, for the first time."""

    stage: int
    slot: int
    seed: int
    parents: tuple[int, ...]
    """Slots of the stage before whose tails the prompt shows, in prompt order."""
    messages: tuple[Message, ...]
    """The prompt."""
    at: float = 0.0
    recorded: bool = False
    """It had started in an earlier process."""

    @property
    def place(self) -> Place:
        """Where the candidate stands in the run."""
        return Place(self.stage, self.slot, self.seed, self.parents)


@dataclass(frozen=True, slots=True)
class CandidateProgress:
    """A candidate wrote something; only told to listeners that ask for progress."""

    stage: int
    slot: int
    text: str
    """What is new."""
    num_tokens: int
    """Tokens of the candidate so far, tries that broke off included."""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class CandidateDone:
    """One candidate is complete, was cut, or was given up."""

    candidate: Candidate
    total_tokens: int
    """Newly generated tokens of the run so far."""
    at: float = 0.0
    recorded: bool = False
    """It was complete in an earlier process."""

    @property
    def stage(self) -> int:
        """The candidate's stage."""
        return self.candidate.stage

    @property
    def slot(self) -> int:
        """The candidate's slot."""
        return self.candidate.slot

    @property
    def num_tokens(self) -> int:
        """Newly generated tokens of this candidate."""
        return self.candidate.num_tokens

    @property
    def answer(self) -> str | None:
        """Extracted answer; None when it did not finish or holds none."""
        return self.candidate.answer

    @property
    def failed(self) -> bool:
        """Whether the candidate was given up."""
        return self.candidate.is_failed


@dataclass(frozen=True, slots=True)
class StageDone:
    """Every candidate of a stage is complete, cut, failed or cancelled."""

    stage: int
    answers: Mapping[str, int]
    """How many candidates gave each answer, most frequent first."""
    num_tokens: int
    """Newly generated tokens of this stage."""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class RunDone:
    """The answer is chosen."""

    answer: str | None
    why: str
    num_tokens: int
    degraded: bool
    interrupted: bool
    winner: tuple[int, int] | None = None
    """Stage and slot of the chosen candidate."""
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    template_sha256: str = ""
    tail_method: str = ""
    at: float = 0.0


Event = RunStarted | CandidateStarted | CandidateProgress | CandidateDone | StageDone | RunDone
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an earlier process did of a run: where to go on.

    Finished candidates, failed ones among them, are not generated again; started ones keep their
    seed and parents.
    """

    started: Sequence[Place] = ()
    finished: Sequence[Candidate] = ()
    elapsed_s: float = 0.0
    """Seconds that the run had taken."""

    @staticmethod
    def of(events: Iterable[Event]) -> "Recorded":
        """Return what a list of events records."""
        told = list(events)
        return Recorded(
            started=[e.place for e in told if isinstance(e, CandidateStarted)],
            finished=[e.candidate for e in told if isinstance(e, CandidateDone)],
            elapsed_s=max((e.at for e in told), default=0.0),
        )


def nobody() -> bool:
    """Want no progress: the default."""
    return False


def ignore(_event: Event) -> None:
    """Drop an event: the default listener."""
