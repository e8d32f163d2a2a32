"""The shape that all *find* problems share: try, check, and stop at a hit or out of patience.

Checking a try is much cheaper than finding one, so a candidate that claims a hit can be checked by
whoever aggregates, and one right candidate among many wrong ones is enough.
"""

from collections.abc import Callable, Iterable
from random import Random

from openzaya.envs.base import Solution, Teacher

Attempt = Callable[[str, Random, Teacher], tuple[str, bool]]
"""Write one try out: its working, and whether it hits as the teacher sees it."""


def search(tries: Iterable[str], attempt: Attempt, rng: Random, teacher: Teacher) -> Solution:
    """Go through `tries` until a hit or until patience ends; the last one tried is the answer."""
    written: list[str] = []
    answer = ""
    for answer in tries:
        working, hit = attempt(answer, rng, teacher)
        written.append(working + ("y" if hit else "n"))
        if hit or len(written) == teacher.patience:
            break
    return Solution("".join(written[-1:] if teacher.recap_only else written), answer)
