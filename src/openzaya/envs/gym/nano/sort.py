"""Sort distinct letters."""

from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS

MAX_LETTERS = 20
"""With all 26 every problem has the same answer."""


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... sorts 4, 5, 6, ... letters, at most 20."""
    check_difficulty(difficulty)
    letters = "".join(rng.sample(TAGS, min(difficulty + 4, MAX_LETTERS)))
    return Problem(f"sort {letters}", "".join(sorted(letters)), {"letters": letters})


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the letters stand in order."""
    return right() if answer == problem.reference else wrong(f"not sorted: {answer[:40]!r}")


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Take the smallest letter that is left, again and again; a slip forgets one."""
    kept = [letter for letter in problem.reference if rng.random() >= teacher.slip]
    word = "".join(kept) or problem.reference
    return Solution("#" + word, word)


def merge(problem: Problem, _tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Sort again: that is as short as merging."""
    return teach(problem, rng, teacher)
