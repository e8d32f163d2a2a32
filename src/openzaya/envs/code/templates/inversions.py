"""Inversions, in total and by place."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "An inversion is a pair of places i < j with numbers[i] > numbers[j]. Return the number of all "
    "inversions, then the largest number of inversions that one place i is the left part of."
)
INPUTS = {"numbers": integers(0, 30, -50, 50)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = ({"numbers": [-51]}, {"numbers": {}}, {"numbers": ["1"]})


def generate(rng: Random, size: int) -> Given:
    """Values with repeats."""
    count = rng.randint(size // 2, size)
    return {"numbers": [rng.randint(0, size) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(numbers):
    total = 0
    most = 0
    for i in range(len(numbers)):
        here = 0
        for j in range(i + 1, len(numbers)):
            if numbers[i] > numbers[j]:
                here += 1
        total += here
        most = max(most, here)
    return [total, most]
""",
    """\
from bisect import bisect_left, insort

def solve(numbers):
    seen = []
    total = most = 0
    for number in reversed(numbers):
        smaller = bisect_left(seen, number)
        total += smaller
        if smaller > most:
            most = smaller
        insort(seen, number)
    return [total, most]
""",
)
