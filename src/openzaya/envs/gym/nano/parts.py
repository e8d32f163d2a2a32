"""Work out many small independent parts, each named by a letter.

Every part is a short left-to-right chain modulo 10; the answer lists all of them. One slip spoils
the whole answer, so voting over whole answers is weak where merging part by part is not.
"""

from dataclasses import replace
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS, apply, has_recap, read_tagged, tagged


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... asks for 3, 5, 7, ... parts, at most 26."""
    check_difficulty(difficulty)
    count = min(2 * difficulty + 3, len(TAGS))
    parts, values = [], []
    for _ in range(count):
        x, y, z = (rng.randint(1, 9) for _ in range(3))
        first, second = (rng.choice("+-*") for _ in range(2))
        parts.append(f"{x}{first}{y}{second}{z}")
        values.append(apply(second, apply(first, x, y), z))
    shown = " ".join(TAGS[i] + part for i, part in enumerate(parts))
    return Problem(f"parts {shown}", tagged(values), {"parts": parts})


def score(problem: Problem, answer: str) -> Verdict:
    """Right when every part is right; the score is the share of right parts below that."""
    values, wanted = read_tagged(answer), read_tagged(problem.reference)
    assert wanted is not None
    if values is None or len(values) != len(wanted):
        return wrong(f"expected {len(wanted)} parts like a3b0, found {answer[:40]!r}")
    hits = sum(x == y for x, y in zip(values, wanted, strict=True))
    if hits == len(wanted):
        return right()
    return wrong(f"{hits} of {len(wanted)} parts are right", 0.99 * hits / len(wanted))


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Work out part after part, then list them."""
    parts = problem.data["parts"]
    assert isinstance(parts, list)
    steps, values = [], []
    for i, (x, first, y, second, z) in enumerate(parts):
        middle = teacher.digit(rng, apply(first, int(x), int(y)))
        value = teacher.digit(rng, apply(second, middle, int(z)))
        steps.append(f"{TAGS[i]}{x}{first}{y}={middle}{second}{z}={value}")
        values.append(value)
    recap = tagged(values)
    reasoning = "#" + recap if teacher.recap_only else "".join(steps) + "#" + recap
    return Solution(reasoning, recap)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Merge the recaps part by part; work it out again when there are not two of them."""
    parts = problem.data["parts"]
    assert isinstance(parts, list)
    enough = sum(has_recap(tail, len(parts)) for tail in tails) >= 2
    return teach(problem, rng, replace(teacher, recap_only=enough))
