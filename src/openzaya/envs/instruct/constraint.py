"""What a constraint is: its arguments, its wording, its checker and the writer that proves it.

A constraint is a frozen dataclass: the fields are its arguments, the class says the rest. The
writer (`satisfy`) and the spoiler (`violate`) make every checker provable: what the writer returns
must pass and what the spoiler returns must fail. A combination of constraints is only ever asked
for after the chain of writers has produced one reply that passes all checkers and the gate.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from random import Random
from typing import ClassVar, Protocol, Self

from openzaya.core.errors import EnvError
from openzaya.envs.instruct.reading import Reading, words
from openzaya.envs.instruct.topics import Topic, pool

RARE_FROM_LEVEL = 4
"""The level from which keywords are the rare ones."""
NEUTRAL: frozenset[str] = frozenset()
"""`needs` of a constraint that makes sense in any language."""


@dataclass(frozen=True, slots=True)
class Example:
    """A reply that keeps the constraint with these arguments, and one that breaks it."""

    arguments: dict[str, object]
    holds: str
    fails: str


@dataclass(frozen=True, slots=True)
class Draw:
    """What arguments are drawn with."""

    rng: Random
    level: int
    """0 and up; a higher level makes the arguments harder."""
    topic: Topic

    def keywords(self, count: int) -> tuple[str, ...]:
        """Draw different words that have nothing to do with the topic."""
        known = {*self.topic.nouns, *words(self.topic.request)}
        drawn = pool("rare_keywords" if self.level >= RARE_FROM_LEVEL else "keywords")
        return tuple(self.rng.sample([word for word in drawn if word not in known], count))

    def keyword(self) -> str:
        """Draw one such word."""
        return self.keywords(1)[0]


class Pen(Protocol):
    """What writers write with: sentences on the topic, and edits that break little else."""

    @property
    def text(self) -> str:
        """The text so far."""

    @property
    def topic(self) -> Topic:
        """What the reply is about."""

    def sentence(self) -> str:
        """Return a fresh sentence on the topic that keeps what other constraints allow."""

    def mention(self, word: str) -> str:
        """Return a fresh sentence that contains a word or phrase."""

    def add(self, text: str, sentence: str) -> str:
        """Return the text with a sentence added where it breaks the fewest constraints."""

    def drop(self, text: str) -> str:
        """Return the text without the sentence that is missed least."""

    def block(self, text: str, block: str) -> str:
        """Return the text with a paragraph of its own added where it breaks least."""

    def best(self, texts: list[str]) -> str:
        """Return the first of the texts that break the fewest constraints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint(ABC):
    """Base of all constraints; a subclass is found by its name."""

    rarity: ClassVar[int]
    """1 for what users ask for daily, 2 for now and then, 3 for what few ever ask."""
    wordings: ClassVar[tuple[str, ...]]
    """Ways to say it; `{field}` is replaced by the argument."""
    claims: ClassVar[frozenset[str]] = frozenset()
    """What the constraint decides alone: two that claim the same thing clash."""
    needs: ClassVar[frozenset[str]] = frozenset({"english"})
    """What the reply must contain or be; clashes with a constraint that bans it."""
    bans: ClassVar[frozenset[str]] = frozenset()
    """What the reply must not contain or be."""
    turn: ClassVar[int] = 5
    """When the writer's turn comes, small first: shape, then content, then surface."""
    examples: ClassVar[tuple[Example, ...]]

    @classmethod
    def sample(cls, draw: Draw) -> Self:  # noqa: ARG003
        """Draw arguments; a constraint without any has nothing to draw."""
        return cls()

    @abstractmethod
    def check(self, reply: Reading) -> bool:
        """Say whether the reply keeps the constraint; total, pure, linear time."""

    @abstractmethod
    def satisfy(self, pen: Pen) -> str:
        """Return the pen's text changed so that it (or a later round) keeps the constraint."""

    @abstractmethod
    def violate(self, text: str) -> str:
        """Return a text close to one that keeps the constraint, but that breaks it."""

    def allows(self, sentence: str) -> bool:
        """Say whether a writer may use this sentence; a hint that saves repairs."""
        return bool(sentence)

    def text(self, rng: Random) -> str:
        """Return one wording of the instruction, filled in."""
        shown = {name: _shown(value) for name, value in asdict(self).items()}
        return rng.choice(self.wordings).format(**shown)

    @classmethod
    def name(cls) -> str:
        """Return the name that problems store, such as words_at_least."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def restore(cls, arguments: dict[str, object]) -> Self:
        """Return the constraint whose arguments were stored as JSON."""
        try:
            return cls(**{key: _tuples(value) for key, value in arguments.items()})
        except TypeError as error:
            raise EnvError(
                f"constraint {cls.name()} does not take {arguments}; "
                f"expected {', '.join(cls.__dataclass_fields__)}: make the problem again"
            ) from error


def _shown(value: object) -> str:
    """Write an argument as it stands in a prompt; several are quoted and joined by commas."""
    if isinstance(value, tuple):
        return ", ".join(f'"{part}"' for part in value)
    return str(value)


def _tuples(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
