"""Length and start of the longest run of equal neighbours."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "A run is a block of neighbouring equal numbers. Return the length of the longest run and the "
    "index where it starts, counted from 0. Of several longest runs take the first. An empty list "
    "gives length 0 and index -1."
)
INPUTS = {"numbers": integers(0, 30, -9, 9)}
OUTPUT = "a list of two integers: length and start"
REJECTED: tuple[Given, ...] = ({"numbers": [10]}, {"numbers": [1, True]}, {"numbers": "11"}, {})


def generate(rng: Random, size: int) -> Given:
    """Few different values, so that runs happen."""
    return {"numbers": [rng.choice((-2, 1, 4)) for _ in range(rng.randint(size // 2, size))]}


SOLUTIONS = (
    """\
def solve(numbers):
    best, best_start = 0, -1
    start = 0
    for i in range(len(numbers)):
        if i > 0 and numbers[i] != numbers[i - 1]:
            start = i
        if i - start + 1 > best:
            best = i - start + 1
            best_start = start
    return [best, best_start]
""",
    """\
from itertools import groupby

def solve(numbers):
    position = 0
    runs = []
    for _, group in groupby(numbers):
        length = len(list(group))
        runs.append((-length, position))
        position += length
    if not runs:
        return [0, -1]
    length, start = min(runs)
    return [-length, start]
""",
)
