"""The cheapest order of cuts."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "A stick of the given length is cut at all the given marks, in an order of your choice. A cut "
    "costs the length of the piece that is cut. Return the lowest and the highest possible total "
    "cost. The marks ascend strictly and lie inside the stick, that is between 0 and the length."
)
INPUTS = {"length": Whole(1, 100), "marks": integers(0, 9, 1, 99)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"length": 5, "marks": [5]},
    {"length": 5, "marks": [2, 2]},
    {"length": 0, "marks": []},
    {"length": 9, "marks": [3, 1]},
)
MAX_SIZE = 18


def valid(given: Given) -> bool:
    """Marks ascend strictly and lie inside the stick."""
    marks = given["marks"]
    return marks == sorted(set(marks)) and (not marks or marks[-1] < given["length"])


def generate(rng: Random, size: int) -> Given:
    """Marks at random."""
    length = rng.randint(size + 2, min(100, 5 * size + 3))
    count = rng.randint(size // 4, min(9, 1 + size // 2))
    return {"length": length, "marks": sorted(rng.sample(range(1, length), min(count, length - 1)))}


SOLUTIONS = (
    """\
def solve(length, marks):
    points = [0] + marks + [length]
    n = len(points)
    low = [[0] * n for _ in range(n)]
    high = [[0] * n for _ in range(n)]
    for width in range(2, n):
        for i in range(n - width):
            j = i + width
            cost = points[j] - points[i]
            low[i][j] = cost + min(low[i][k] + low[k][j] for k in range(i + 1, j))
            high[i][j] = cost + max(high[i][k] + high[k][j] for k in range(i + 1, j))
    return [low[0][n - 1], high[0][n - 1]]
""",
    """\
from functools import cache

def solve(length, marks):
    @cache
    def cut(start, end):
        inside = [m for m in marks if start < m < end]
        if not inside:
            return 0, 0
        lows, highs = [], []
        for mark in inside:
            left, right = cut(start, mark), cut(mark, end)
            lows.append(left[0] + right[0])
            highs.append(left[1] + right[1])
        return min(lows) + end - start, max(highs) + end - start
    return list(cut(0, length))
""",
)
