"""Follow a chain of single-digit operations, left to right, modulo 10."""

from dataclasses import replace
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS, apply, has_recap, tagged


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... chains 3, 4, 5, ... operations, at most 26."""
    check_difficulty(difficulty)
    count = min(difficulty + 3, len(TAGS))
    start = rng.randint(0, 9)
    steps = [(rng.choice("+-*"), rng.randint(1, 9)) for _ in range(count)]
    value = start
    for operator, operand in steps:
        value = apply(operator, value, operand)
    shown = " ".join(f"{TAGS[i]}{operator}{operand}" for i, (operator, operand) in enumerate(steps))
    data: dict[str, object] = {"start": start, "steps": "".join(f"{o}{n}" for o, n in steps)}
    return Problem(f"chain {start} {shown}", str(value), data)


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the answer is the last value."""
    return right() if answer == problem.reference else wrong(f"the end is not {answer[:40]!r}")


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Write every step with its running value; a slip changes all that follows."""
    code = str(problem.data["steps"])
    value = int(str(problem.data["start"]))
    steps, values = [], []
    for i, (operator, operand) in enumerate(zip(code[::2], code[1::2], strict=True)):
        result = teacher.digit(rng, apply(operator, value, int(operand)))
        steps.append(f"{TAGS[i]}{value}{operator}{operand}={result}")
        values.append(result)
        value = result
    recap = "#" + tagged(values)
    return Solution(recap if teacher.recap_only else "".join(steps) + recap, str(value))


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Merge the recaps step by step; work it out again when there are not two of them."""
    num_parts = len(str(problem.data["steps"])) // 2
    enough = sum(has_recap(tail, num_parts) for tail in tails) >= 2
    return teach(problem, rng, replace(teacher, recap_only=enough))
