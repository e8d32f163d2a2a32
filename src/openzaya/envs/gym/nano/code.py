"""Predict what a tiny straight-line program computes, modulo 10 (a stand-in for CodeI/O)."""

from dataclasses import replace
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS, apply, has_recap, tagged


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... runs 3, 4, 5, ... assignments, at most 26."""
    check_difficulty(difficulty)
    count = min(difficulty + 3, len(TAGS))
    lines = [f"a={rng.randint(1, 9)}"]
    values = [int(lines[0][2])]
    for i in range(1, count):
        source = rng.randrange(max(0, i - 3), i)
        operator = rng.choice("+-*")
        by_name = rng.random() < 0.5
        other = rng.randrange(i) if by_name else rng.randint(1, 9)
        shown = TAGS[other] if by_name else other
        lines.append(f"{TAGS[i]}={TAGS[source]}{operator}{shown}")
        values.append(apply(operator, values[source], values[other] if by_name else other))
    return Problem(f"code {' '.join(lines)}", str(values[-1]), {"lines": lines})


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the answer is the last variable's value."""
    return right() if answer == problem.reference else wrong(f"it is not {answer[:40]!r}")


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Execute line after line, writing operands as values; a slip spoils what depends on it."""
    lines = problem.data["lines"]
    assert isinstance(lines, list)
    steps = [lines[0]]
    values = {"a": int(lines[0][2])}
    for line in lines[1:]:
        name, left, operator, other = line[0], values[line[2]], line[3], line[4]
        operand = values[other] if other in values else int(other)
        values[name] = teacher.digit(rng, apply(operator, left, operand))
        steps.append(f"{name}={left}{operator}{operand}={values[name]}")
    recap = "#" + tagged(list(values.values()))
    answer = str(values[lines[-1][0]])
    return Solution(recap if teacher.recap_only else "".join(steps) + recap, answer)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Merge the recaps line by line; work it out again when there are not two of them."""
    lines = problem.data["lines"]
    assert isinstance(lines, list)
    enough = sum(has_recap(tail, len(lines)) for tail in tails) >= 2
    return teach(problem, rng, replace(teacher, recap_only=enough))
