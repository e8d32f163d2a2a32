"""Conversations written by the procedural teachers: the corpora of the nano recipe.

Four kinds, as in the paper's mixtures: facts (the atomic steps, plain text), traces (long-CoT),
and aggregation examples, whose user turn shows tails of flawed candidates. Paper: III, VI-B.
Deviation: D-016.
"""

from dataclasses import dataclass
from random import Random

from openzaya.core.records import Message
from openzaya.envs.base import Environment, Problem, Solution, Teacher
from openzaya.envs.readers import apply
from openzaya.text.tails import aggregation_messages

COMPARISON_SHARE = 0.4
"""Share of facts that compare two digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregationStyle:
    """How the candidates of an aggregation example look."""

    max_candidates: int = 4
    """C is drawn from 1..max_candidates."""
    max_slip: float = 0.12
    """Every candidate's slip rate is drawn from 0..max_slip."""
    max_patience: int = 6
    """Every candidate's patience is drawn from 1..max_patience, so many searches end in a miss."""
    recap_only_share: float = 0.4
    """Share of examples whose candidates are recaps, as they are after a first round."""
    tail_chars: int = 48
    """Longest tail in characters (the nano tokenizer has one id a character)."""


def facts(rng: Random, count: int) -> str:
    """Return `count` facts on digits as one line: sums like 3+9=2, comparisons like 4?7n or 4?4y.

    Half of the comparisons are equal: in searches hits are rare, and a model that only saw those
    would learn to answer n without looking.
    """
    lines = []
    for _ in range(count):
        x, y = rng.randint(0, 9), rng.randint(0, 9)
        if rng.random() < COMPARISON_SHARE:
            y = rng.choice((x, y))
            lines.append(f"{x}?{y}{'y' if x == y else 'n'}")
        else:
            operator = rng.choice("+-*")
            lines.append(f"{x}{operator}{y}={apply(operator, x, y)}")
    return " ".join(lines)


def conversation(question: str, solution: Solution) -> tuple[Message, ...]:
    """Return the question and its worked solution as two turns."""
    return (
        Message("user", question),
        Message("assistant", solution.answer, reasoning=solution.reasoning),
    )


def trace(env: Environment, problem: Problem, rng: Random, teacher: Teacher) -> tuple[Message, ...]:
    """Return one worked conversation."""
    assert env.teach is not None
    return conversation(problem.prompt, env.teach(problem, rng, teacher))


def aggregation(
    env: Environment, problem: Problem, rng: Random, style: AggregationStyle
) -> tuple[Message, ...]:
    """Return a conversation whose question shows 1..C tails and whose answer merges them."""
    assert env.teach is not None
    assert env.merge is not None
    recap_only = rng.random() < style.recap_only_share
    tails = []
    for _ in range(rng.randint(1, style.max_candidates)):
        teacher = Teacher(
            slip=rng.uniform(0, style.max_slip),
            patience=rng.randint(1, style.max_patience),
            recap_only=recap_only,
        )
        tails.append(env.teach(problem, rng, teacher).reasoning[-style.tail_chars :])
    answer = env.merge(problem, tails, rng, Teacher())
    asked = aggregation_messages((Message("user", problem.prompt),), tails)
    return (*asked, Message("assistant", answer.answer, reasoning=answer.reasoning))
