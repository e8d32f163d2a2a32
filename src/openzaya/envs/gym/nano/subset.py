"""Find tagged numbers whose sum is the target modulo 10 (subset sum)."""

import re
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS, claims
from openzaya.envs.search import search

MAX_NUMBERS = 13
"""Tags stop before n, which marks a miss in a trace."""


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... offers 4, 5, 6, ... numbers and wants 2, 2, 3, 3, 4 of them."""
    check_difficulty(difficulty)
    count = min(difficulty + 4, MAX_NUMBERS)
    numbers = [rng.randint(1, 9) for _ in range(count)]
    wanted = min(2 + difficulty // 2, 4)
    chosen = sorted(rng.sample(range(count), wanted))
    target = sum(numbers[i] for i in chosen) % 10
    shown = " ".join(f"{TAGS[i]}{number}" for i, number in enumerate(numbers))
    data: dict[str, object] = {"numbers": numbers, "target": target, "wanted": wanted}
    return Problem(f"subset {wanted} of {shown} = {target}", _letters(chosen), data)


def _letters(chosen: Sequence[int]) -> str:
    return "".join(TAGS[i] for i in chosen)


def _read(problem: Problem, text: str) -> list[int] | None:
    """Return the chosen places, or None unless the letters are known, distinct and enough."""
    numbers = problem.data["numbers"]
    assert isinstance(numbers, list)
    if not re.fullmatch(r"[a-z]+", text) or len(set(text)) != len(text):
        return None
    places = [TAGS.index(letter) for letter in text]
    fits = len(places) == problem.data["wanted"] and max(places) < len(numbers)
    return places if fits else None


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the letters name that many different numbers with the target sum."""
    places = _read(problem, "".join(answer.split()))
    numbers, target = problem.data["numbers"], problem.data["target"]
    assert isinstance(numbers, list)
    if places is None:
        return wrong(f"expected {problem.data['wanted']} letters, found {answer[:40]!r}")
    total = sum(numbers[i] for i in places) % 10
    return right() if total == target else wrong(f"{answer} sums to {total}, not {target}")


def _tries(problem: Problem, rng: Random) -> list[str]:
    numbers, wanted = problem.data["numbers"], problem.data["wanted"]
    assert isinstance(numbers, list)
    assert isinstance(wanted, int)
    every = [_letters(chosen) for chosen in combinations(range(len(numbers)), wanted)]
    start = rng.randrange(len(every))
    return every[start:] + every[:start]


def _attempt(problem: Problem, answer: str, rng: Random, teacher: Teacher) -> tuple[str, int]:
    """Write `a3+c5=8+e2=0` with running sums."""
    numbers = problem.data["numbers"]
    assert isinstance(numbers, list)
    value = numbers[TAGS.index(answer[0])]
    working = f"{answer[0]}{value}"
    for letter in answer[1:]:
        number = numbers[TAGS.index(letter)]
        value = teacher.digit(rng, value + number)
        working += f"+{letter}{number}={value}"
    return working, value


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Try subsets of the wanted size in order, from a random one on, until one fits."""
    return search(problem, _tries(problem, rng), partial(_attempt, problem), rng, teacher)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Check what the candidates claim; search on when no claim holds."""
    claimed = [re.sub(r"[^a-z]", "", claim) for claim in claims(tails)]
    known = [claim for claim in claimed if _read(problem, claim) is not None]
    order = known + [attempt for attempt in _tries(problem, rng) if attempt not in known]
    return search(problem, order, partial(_attempt, problem), rng, teacher)
