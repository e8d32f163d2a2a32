"""Where a candidate stands in a run, and what it is asked."""

from dataclasses import dataclass

from openzaya.core.records import Message


@dataclass(frozen=True, slots=True)
class Place:
    """Where a candidate stands in the run."""

    stage: int
    slot: int
    seed: int
    parents: tuple[int, ...]
    """Slots of the stage before whose tails the prompt shows, in prompt order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A candidate that is about to be sampled."""

    place: Place
    messages: tuple[Message, ...]
    opening: str = ""
    """Reasoning that the assistant's turn begins with; empty but for continued chains."""

    @property
    def parents(self) -> tuple[int, ...]:
        """Slots whose tails the prompt shows."""
        return self.place.parents
