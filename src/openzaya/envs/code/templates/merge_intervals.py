"""Merge intervals that touch."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Each interval [a, b] covers the whole numbers from a to b. Merge intervals that share a "
    "number or are direct neighbours (such as [1, 2] and [3, 4]). Return the merged intervals in "
    "ascending order, followed by the length of the longest gap between two of them, counted in "
    "uncovered numbers (0 if there is no gap). a is at most b."
)
INPUTS = {"intervals": Items(Fixed((Whole(-50, 50), Whole(-50, 50))), 0, 20)}
OUTPUT = "a list of pairs and an integer"
REJECTED: tuple[Given, ...] = (
    {"intervals": [[2, 1]]},
    {"intervals": [[0]]},
    {"intervals": [[0, 51]]},
)
MAX_SIZE = 20


def valid(given: Given) -> bool:
    """No interval is upside down."""
    return all(a <= b for a, b in given["intervals"])


def generate(rng: Random, size: int) -> Given:
    """Short intervals over a range that grows."""
    far = min(44, 3 + 2 * size)
    starts = [rng.randint(-far, far) for _ in range(rng.randint(size // 2, size))]
    return {"intervals": [[a, min(50, a + rng.choice((0, 1, 2, 5)))] for a in starts]}


SOLUTIONS = (
    """\
def solve(intervals):
    merged = []
    for a, b in sorted(intervals):
        if merged and a <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], b)
        else:
            merged.append([a, b])
    gap = 0
    for i in range(1, len(merged)):
        gap = max(gap, merged[i][0] - merged[i - 1][1] - 1)
    return merged + [gap]
""",
    """\
def solve(intervals):
    covered = set()
    for a, b in intervals:
        covered.update(range(a, b + 1))
    result = []
    longest = 0
    for number in range(-50, 51):
        if number not in covered:
            continue
        if number - 1 in covered:
            result[-1][1] = number
        else:
            if result and number - result[-1][1] - 1 > longest:
                longest = number - result[-1][1] - 1
            result.append([number, number])
    result.append(longest)
    return result
""",
)
