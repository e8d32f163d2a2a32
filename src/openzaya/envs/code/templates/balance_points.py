"""Places where the sum on the left equals the sum on the right."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "A place i is balanced when the sum of the numbers before i equals the sum of the numbers "
    "after i; the number at i counts for neither side, and an empty side has sum 0. Return the "
    "list of balanced places in ascending order, followed by the smallest absolute difference of "
    "the two sums over all places."
)
INPUTS = {"numbers": integers(1, 30, -30, 30)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": []},
    {"numbers": [31]},
    {"numbers": [None]},
    {"number": [1]},
)


def generate(rng: Random, size: int) -> Given:
    """Small values, so that balance happens."""
    count = rng.randint((size + 1) // 2, size)
    return {"numbers": [rng.randint(-2, 2 + size // 4) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(numbers):
    total = sum(numbers)
    before = 0
    found = []
    nearest = None
    for i in range(len(numbers)):
        after = total - before - numbers[i]
        if before == after:
            found.append(i)
        gap = abs(before - after)
        if nearest is None or gap < nearest:
            nearest = gap
        before += numbers[i]
    return found + [nearest]
""",
    """\
def solve(numbers):
    gaps = [abs(sum(numbers[:i]) - sum(numbers[i + 1:])) for i in range(len(numbers))]
    return [i for i, gap in enumerate(gaps) if gap == 0] + [min(gaps)]
""",
)
