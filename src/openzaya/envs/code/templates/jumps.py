"""Fewest jumps to the end."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "You stand on place 0. From place i you may jump forward by 1 to reach[i] places. Return the "
    "fewest jumps to the last place, or -1 if it cannot be reached, and the farthest place that "
    "can be reached at all."
)
INPUTS = {"reach": integers(1, 30, 0, 9)}
OUTPUT = "a list of two integers: jumps and farthest place"
REJECTED: tuple[Given, ...] = ({"reach": []}, {"reach": [-1]}, {"reach": [10]}, {"reach": 3})


def generate(rng: Random, size: int) -> Given:
    """Short jumps, dead ends now and then."""
    count = rng.randint((size + 1) // 2, size)
    return {"reach": [rng.choice((0, 1, 2, 3, rng.randint(1, 4))) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(reach):
    n = len(reach)
    jumps = [None] * n
    jumps[0] = 0
    farthest = 0
    for i in range(n):
        if jumps[i] is None:
            continue
        farthest = i
        for j in range(i + 1, min(i + reach[i] + 1, n)):
            if jumps[j] is None or jumps[j] > jumps[i] + 1:
                jumps[j] = jumps[i] + 1
    return [-1 if jumps[n - 1] is None else jumps[n - 1], farthest]
""",
    """\
def solve(reach):
    last = len(reach) - 1
    count = 0
    edge = 0
    farthest = 0
    i = 0
    while edge < last:
        while i <= edge:
            farthest = max(farthest, i + reach[i])
            i += 1
        if farthest == edge:
            return [-1, edge]
        edge = min(farthest, last)
        count += 1
    return [count, last]
""",
)
