"""Put constraints together so that a reply that keeps all of them is known to exist.

Kinds are drawn by the conflict table, which only spares useless tries. What counts is the witness:
the writers of the constraints work on one text in turn, round after round, until every checker and
the gate accept it. A combination without a witness is never asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from openzaya.envs.instruct.constraint import Constraint, Draw
from openzaya.envs.instruct.gate import MIN_WORDS, Gate
from openzaya.envs.instruct.kinds import clash, kinds
from openzaya.envs.instruct.pen import Writer, bank
from openzaya.envs.instruct.reading import Reading
from openzaya.envs.instruct.topics import Topic

MAX_CONSTRAINTS = 5
MAX_RARITY = 3
PATIENCE = 3
"""Rounds of all writers without any progress before a combination is given up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A prompt, as it was put together."""

    topic: Topic
    constraints: tuple[Constraint, ...]
    instructions: tuple[str, ...]
    """The wording of each constraint."""
    prompt: str


def rarities(rng: Random, difficulty: int) -> list[int]:
    """Draw how many constraints there are and how rare each is.

    Their sum, which is their number times their mean rarity, is difficulty + 1, at most 15.
    """
    total = min(difficulty + 1, MAX_CONSTRAINTS * MAX_RARITY)
    count = rng.randint(-(-total // MAX_RARITY), min(MAX_CONSTRAINTS, total))
    drawn = [1] * count
    for _ in range(total - count):
        below = [place for place, rarity in enumerate(drawn) if rarity < MAX_RARITY]
        drawn[rng.choice(below)] += 1
    return drawn


def draw(rng: Random, difficulty: int, topic: Topic) -> tuple[Constraint, ...] | None:
    """Draw constraints that do not clash, or None when the draw ended in a dead end."""
    chosen: list[Constraint] = []
    for rarity in rarities(rng, difficulty):
        free = [
            kind for kind in kinds().values()
            if kind.rarity == rarity and not any(clash(kind, type(other)) for other in chosen)
        ]  # fmt: skip
        if not free:
            return None
        chosen.append(rng.choice(free).sample(Draw(rng, difficulty, topic)))
    return tuple(chosen)


def plan(rng: Random, topic: Topic, constraints: Sequence[Constraint]) -> Plan:
    """Write the prompt: the task first, then the instructions in one of three layouts."""
    instructions = tuple(constraint.text(rng) for constraint in constraints)
    task = f"{topic.request} Write {MIN_WORDS} words or more of your own."
    layout = rng.randrange(3)
    if layout == 0:
        told = " " + " ".join(instructions)
    elif layout == 1:
        told = "\n\nFollow these instructions:\n" + "\n".join(f"- {one}" for one in instructions)
    else:
        lines = [f"{number}. {one}" for number, one in enumerate(instructions, start=1)]
        told = "\n\nKeep to the following:\n" + "\n".join(lines)
    return Plan(topic, tuple(constraints), instructions, task + told)


def gate(prompt: str, topic: Topic, constraints: Sequence[Constraint]) -> Gate:
    """Return the gate of a prompt: its language is the one that a constraint asks for."""
    asked = [str(getattr(one, "language")) for one in constraints if hasattr(one, "language")]  # noqa: B009
    return Gate(prompt, topic, *asked[:1])


def witness(rng: Random, planned: Plan) -> str | None:
    """Return a reply that passes the gate and keeps every constraint, or None."""
    guard = gate(planned.prompt, planned.topic, planned.constraints)
    return write(rng, planned, bank(planned.topic, guard.language), guard)


def write(rng: Random, planned: Plan, sentences: Sequence[str], guard: Gate | None) -> str | None:
    """Let the writers work on a text made of `sentences` until all is kept, or return None."""
    order = sorted(planned.constraints, key=lambda constraint: constraint.turn)

    @cache
    def broken(text: str) -> int:
        reply = Reading(text)
        refused = guard is not None and guard.refuse(reply) is not None
        return sum(not one.check(reply) for one in order) + refused

    def allows(sentence: str) -> bool:
        return all(one.allows(sentence) for one in order)

    pen = Writer(planned.topic, rng, sentences, broken, allows)
    best, stale = len(order) + 2, 0
    while stale < PATIENCE:
        for constraint in order:
            if not constraint.check(Reading(pen.text)):
                pen.text = constraint.satisfy(pen)
        if guard is not None and guard.refuse(Reading(pen.text)) is not None:
            pen.text = pen.add(pen.text, pen.sentence())
        left = broken(pen.text)
        if not left:
            return pen.text
        best, stale = min(best, left), 0 if left < best else stale + 1
    return None
