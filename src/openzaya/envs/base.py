"""What an environment is: two functions, `make` and `score`, and for the nano tasks a teacher.

- `make(rng, difficulty)`: a fresh problem; the same rng state gives the same one
- `score(problem, answer)`: judges the final answer, the text after the think block
- `teach(problem, rng, teacher)`, nano only: one worked solution, perhaps a flawed one
- `merge(problem, tails, rng, teacher)`, nano only: how to answer when shown candidates' tails
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from openzaya.core.errors import EnvError
from openzaya.core.records import Verdict, wrong
from openzaya.text.think import split_thinking

MAX_ANSWER_CHARS = 4_096
"""Longer final answers are wrong by rule, unless an environment says otherwise: most answers need
less than 100 characters."""
LARGEST_ANSWER_CHARS = 65_536
"""No environment may take more: a judge's work grows with the answer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; survives JSON."""

    prompt: str
    reference: str
    """One right answer. Other answers may be right too: ask `score`."""
    data: dict[str, object] = field(default_factory=dict)
    """What `score` and the teacher need beyond the prompt."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A worked solution: what stands in the think block and what follows it."""

    reasoning: str
    answer: str


@dataclass(frozen=True, slots=True)
class Teacher:
    """How well the procedural teacher works. The default is perfect and patient."""

    slip: float = 0.0
    """Chance that one step's result is wrong; the error then propagates as it would."""
    patience: int = 12
    """Most tries in a search before the teacher gives up and answers its last try."""
    recap_only: bool = False
    """Write just the recap, as a candidate of a later aggregation round would."""

    def digit(self, rng: Random, value: int) -> int:
        """Return `value` modulo 10, or with chance `slip` another digit."""
        value %= 10
        if self.slip and rng.random() < self.slip:
            return (value + rng.randint(1, 9)) % 10
        return value


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment as the catalog hands it out."""

    name: str
    family: str
    make: Callable[[Random, int], Problem]
    judge: Callable[[Problem, str], Verdict]
    teach: Callable[[Problem, Random, Teacher], Solution] | None = None
    merge: Callable[[Problem, list[str], Random, Teacher], Solution] | None = None
    max_answer_chars: int = MAX_ANSWER_CHARS
    """Longer final answers are wrong by rule."""

    def __post_init__(self) -> None:
        """Refuse an answer's size that is none."""
        if not 0 < self.max_answer_chars <= LARGEST_ANSWER_CHARS:
            raise EnvError(
                f"environment {self.name!r} takes answers of {self.max_answer_chars} characters; "
                f"choose 1 to {LARGEST_ANSWER_CHARS}"
            )

    def score(self, problem: Problem, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Judge a whole reply: only the text after the closing think marker counts."""
        thought = split_thinking(reply, started_in_think=started_in_think)
        if not thought.closed:
            return wrong("the reasoning was never closed, so there is no final answer")
        answer = thought.answer.strip()
        if not answer:
            return wrong("the final answer is empty")
        if len(answer) > self.max_answer_chars:
            most = self.max_answer_chars
            return wrong(f"the final answer has {len(answer)} characters, more than {most}")
        return self.judge(problem, answer)


def check_difficulty(difficulty: int) -> None:
    """Raise EnvError unless `difficulty` is a whole number >= 0."""
    if difficulty < 0:
        raise EnvError(f"difficulty is {difficulty}; choose a whole number >= 0")
