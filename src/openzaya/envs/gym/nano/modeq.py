"""Solve a polynomial equation modulo 10 by trying values of x."""

import re
from functools import partial
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import apply, claims
from openzaya.envs.search import search


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0 is linear; every further step up to 3 adds a power of x."""
    check_difficulty(difficulty)
    degree = min(difficulty + 1, 4)
    coefficients = [rng.randint(1, 9) for _ in range(degree + 1)]
    x = rng.randint(0, 9)
    target = _evaluate(coefficients, x)
    powers = ["x" * power for power in range(degree, -1, -1)]
    shown = "+".join(f"{c}{power}" for c, power in zip(coefficients, powers, strict=True))
    data: dict[str, object] = {"coefficients": coefficients, "target": target}
    return Problem(f"modeq {shown}={target}", str(x), data)


def _evaluate(coefficients: list[int], x: int) -> int:
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = (value * x + coefficient) % 10
    return value


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the digit solves the equation."""
    coefficients, target = problem.data["coefficients"], problem.data["target"]
    assert isinstance(coefficients, list)
    if not re.fullmatch(r"[0-9]", answer):
        return wrong(f"expected one digit, found {answer[:40]!r}")
    value = _evaluate(coefficients, int(answer))
    return right() if value == target else wrong(f"x={answer} makes {value}, not {target}")


def _tries(rng: Random) -> list[str]:
    start = rng.randrange(10)
    return [str((start + i) % 10) for i in range(10)]


def _attempt(problem: Problem, answer: str, rng: Random, teacher: Teacher) -> tuple[str, int]:
    """Write Horner's rule with running values, `x3:5*3=5+2=7`."""
    coefficients = problem.data["coefficients"]
    assert isinstance(coefficients, list)
    value = coefficients[0]
    working = f"x{answer}:{value}"
    for coefficient in coefficients[1:]:
        value = teacher.digit(rng, apply("*", value, int(answer)))
        working += f"*{answer}={value}"
        value = teacher.digit(rng, value + coefficient)
        working += f"+{coefficient}={value}"
    return working, value


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Try the ten digits, from a random one upwards, until one solves the equation."""
    return search(problem, _tries(rng), partial(_attempt, problem), rng, teacher)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Check what the candidates claim; search on when no claim holds."""
    claimed = [match for claim in claims(tails) for match in re.findall(r"x([0-9]):", claim)[-1:]]
    known = list(dict.fromkeys(claimed))
    order = known + [digit for digit in _tries(rng) if digit not in known]
    return search(problem, order, partial(_attempt, problem), rng, teacher)
