"""Put + - * between the given digits so that they make the target, left to right, modulo 10."""

import re
from itertools import product
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import apply, claims
from openzaya.envs.search import search

MAX_DIGITS = 8
"""With more, listing all 3^(n-1) ways takes too long."""


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... uses 3, 4, 5, ... digits, at most 8."""
    check_difficulty(difficulty)
    digits = [rng.randint(1, 9) for _ in range(min(difficulty + 3, MAX_DIGITS))]
    operators = [rng.choice("+-*") for _ in digits[1:]]
    target = _evaluate(digits, operators)
    reference = _written(digits, operators)
    data: dict[str, object] = {"digits": digits, "target": target}
    return Problem(f"countdown {' '.join(map(str, digits))} = {target}", reference, data)


def _evaluate(digits: list[int], operators: list[str]) -> int:
    value = digits[0]
    for operator, digit in zip(operators, digits[1:], strict=True):
        value = apply(operator, value, digit)
    return value


def _written(digits: list[int], operators: list[str]) -> str:
    pairs = zip(operators, digits[1:], strict=True)
    return str(digits[0]) + "".join(f"{operator}{digit}" for operator, digit in pairs)


def _read(problem: Problem, text: str) -> list[str] | None:
    """Return the operators of an expression over exactly the given digits, else None."""
    digits = problem.data["digits"]
    assert isinstance(digits, list)
    if not re.fullmatch(r"[1-9]([-+*][1-9])*", text):
        return None
    return list(text[1::2]) if [int(x) for x in text[::2]] == digits else None


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the expression uses the digits in order and makes the target."""
    operators = _read(problem, "".join(answer.split()))
    digits, target = problem.data["digits"], problem.data["target"]
    assert isinstance(digits, list)
    if operators is None:
        return wrong(f"expected + - * between the digits, found {answer[:40]!r}")
    value = _evaluate(digits, operators)
    return right() if value == target else wrong(f"{answer} makes {value}, not {target}")


def _tries(problem: Problem, rng: Random) -> list[str]:
    digits = problem.data["digits"]
    assert isinstance(digits, list)
    every = [_written(digits, list(ops)) for ops in product("+-*", repeat=len(digits) - 1)]
    start = rng.randrange(len(every))
    return every[start:] + every[:start]


def _attempt(answer: str, rng: Random, teacher: Teacher) -> tuple[str, int]:
    """Write `3+7=0*5=0` with running values."""
    value = int(answer[0])
    working = answer[0]
    for operator, digit in zip(answer[1::2], answer[2::2], strict=True):
        value = teacher.digit(rng, apply(operator, value, int(digit)))
        working += f"{operator}{digit}={value}"
    return working, value


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Try operators in order, from a random place on, until the target is met."""
    return search(problem, _tries(problem, rng), _attempt, rng, teacher)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Check what the candidates claim; search on when no claim holds."""
    claimed = [re.sub(r"[=?][0-9]", "", claim) for claim in claims(tails)]
    known = [claim for claim in claimed if _read(problem, claim) is not None]
    order = known + [attempt for attempt in _tries(problem, rng) if attempt not in known]
    return search(problem, order, _attempt, rng, teacher)
