"""A number as a sum of few squares."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "Write the number as a sum of the fewest squares of integers from `least` on (least**2, "
    "(least+1)**2, ...), each usable many times. Return how many squares that takes, or -1 if it "
    "cannot be done, and the number of different ways to do it with exactly that many squares, the "
    "order being no matter (0 ways for -1). Zero takes 0 squares in 1 way."
)
INPUTS = {"number": Whole(0, 150), "least": Whole(1, 4)}
OUTPUT = "a list of two integers: squares and ways"
REJECTED: tuple[Given, ...] = (
    {"number": 151, "least": 1},
    {"number": 4, "least": 0},
    {"number": [4], "least": 1},
)


def generate(rng: Random, size: int) -> Given:
    """Larger numbers for larger sizes."""
    return {"number": rng.randint(0, min(150, 5 + 6 * size)), "least": rng.choice((1, 1, 2, 3))}


SOLUTIONS = (
    """\
def solve(number, least):
    best = [(0, 1)] + [(-1, 0)] * number
    root = least
    while root * root <= number:
        square = root * root
        for total in range(square, number + 1):
            used, ways = best[total - square]
            if used < 0:
                continue
            have, known = best[total]
            if have < 0 or used + 1 < have:
                best[total] = (used + 1, ways)
            elif used + 1 == have:
                best[total] = (have, known + ways)
        root += 1
    return list(best[number])
""",
    """\
from functools import cache

def solve(number, least):
    @cache
    def ways(left, count, root):
        if count == 0:
            return 1 if left == 0 else 0
        if root * root > left:
            return 0
        return ways(left - root * root, count - 1, root) + ways(left, count, root + 1)
    for count in range(number // (least * least) + 1):
        found = ways(number, count, least)
        if found:
            return [count, found]
    return [-1, 0]
""",
)
