"""The shape that all *find* problems share: try, check, and stop at a hit or out of patience.

Checking a try is much cheaper than finding one, so a candidate that claims a hit can be checked by
whoever aggregates, and one right candidate among many wrong ones is enough.
"""

from collections.abc import Callable, Iterable
from random import Random

from openzaya.envs.base import Problem, Solution, Teacher

Attempt = Callable[[str, Random, Teacher], tuple[str, int]]
"""Write one try out: its working, and the value that it comes to as the teacher sees it."""


def search(
    problem: Problem, tries: Iterable[str], attempt: Attempt, rng: Random, teacher: Teacher
) -> Solution:
    """Go through `tries` until one comes to the problem's target or patience ends.

    The last one tried is the answer. Every try ends by putting its value beside the target:
    `0?4n` or `4?4y`.
    """
    target = problem.data["target"]
    written: list[str] = []
    answer = ""
    for answer in tries:
        working, value = attempt(answer, rng, teacher)
        hit = value == target
        written.append(f"{working}?{target}{'y' if hit else 'n'}")
        if hit or len(written) == teacher.patience:
            break
    return Solution("".join(written[-1:] if teacher.recap_only else written), answer)
