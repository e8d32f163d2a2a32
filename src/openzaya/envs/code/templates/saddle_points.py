"""Places that are best in their row and worst in their column."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, integers

STATEMENT = (
    "A saddle is a place whose number is the largest of its row and the smallest of its column, "
    "ties allowed. Return the saddles as [row, column] in reading order, followed by the "
    "difference between the smallest row maximum and the largest column minimum."
)
INPUTS = {"matrix": Grid(integers(1, 6, -20, 20), 1, 6)}
OUTPUT = "a list of pairs and an integer"
REJECTED: tuple[Given, ...] = (
    {"matrix": []},
    {"matrix": [[]]},
    {"matrix": [[1], [2, 3]]},
    {"matrix": [[21]]},
)
MAX_SIZE = 6


def generate(rng: Random, size: int) -> Given:
    """Small numbers, so that ties happen."""
    height, width = rng.randint((size + 1) // 2, size), rng.randint((size + 1) // 2, size)
    high = rng.choice((3, 4, 9))
    return {"matrix": [[rng.randint(-1, high) for _ in range(width)] for _ in range(height)]}


SOLUTIONS = (
    """\
def solve(matrix):
    saddles = []
    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            column = [other[x] for other in matrix]
            if value == max(row) and value == min(column):
                saddles.append([y, x])
    tops = min(max(row) for row in matrix)
    bottoms = max(min(column) for column in zip(*matrix))
    return saddles + [tops - bottoms]
""",
    """\
def solve(matrix):
    height, width = len(matrix), len(matrix[0])
    tops = [row[0] for row in matrix]
    bottoms = matrix[0][:]
    for y in range(height):
        for x in range(width):
            if matrix[y][x] > tops[y]:
                tops[y] = matrix[y][x]
            if matrix[y][x] < bottoms[x]:
                bottoms[x] = matrix[y][x]
    found = []
    for y in range(height):
        for x in range(width):
            if tops[y] == bottoms[x]:
                found.append([y, x])
    found.append(sorted(tops)[0] - sorted(bottoms)[-1])
    return found
""",
)
