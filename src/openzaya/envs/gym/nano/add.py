"""Add two whole numbers, digit by digit from the right.

The trace writes one step a column, `x+y+carry=carry digit`, then a recap of the digits.
"""

from dataclasses import replace
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS, has_recap, tagged


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... adds numbers of 2, 3, 4, ... digits, at most 25."""
    check_difficulty(difficulty)
    digits = min(difficulty + 2, len(TAGS) - 1)
    left, right_ = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
    return Problem(f"add {left}+{right_}", str(left + right_), {"left": left, "right": right_})


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the answer is the sum in plain ASCII digits."""
    return right() if answer == problem.reference else wrong(f"the sum is not {answer[:40]!r}")


def _columns(problem: Problem) -> list[tuple[int, int]]:
    left, right_ = str(problem.data["left"]), str(problem.data["right"])
    width = max(len(left), len(right_))
    pairs = zip(left.zfill(width)[::-1], right_.zfill(width)[::-1], strict=True)
    return [(int(x), int(y)) for x, y in pairs]


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Add column by column; a slip changes one digit of a column's result."""
    steps, digits, carry = [], [], 0
    for i, (x, y) in enumerate(_columns(problem)):
        total = x + y + carry
        digit = teacher.digit(rng, total)
        steps.append(f"{TAGS[i]}{x}+{y}+{carry}={total // 10}{digit}")
        digits.append(digit)
        carry = total // 10
    digits.append(carry)
    recap = "#" + tagged(digits)
    answer = str(int("".join(map(str, digits[::-1]))))
    return Solution(recap if teacher.recap_only else "".join(steps) + recap, answer)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Merge the recaps part by part; work it out again when there are not two of them."""
    num_parts = len(_columns(problem)) + 1
    enough = sum(has_recap(tail, num_parts) for tail in tails) >= 2
    return teach(problem, rng, replace(teacher, recap_only=enough))
