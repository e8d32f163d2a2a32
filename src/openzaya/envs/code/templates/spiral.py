"""Read a matrix in a spiral."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, Whole, integers

STATEMENT = (
    "Walk through the matrix in a spiral: along the top row to the right, down the last column, "
    "back along the bottom row, up the first column, then inwards in the same way. Return the sums "
    "of every `step` neighbouring numbers of this walk, the last sum holding what is left."
)
INPUTS = {"matrix": Grid(integers(1, 7, -9, 9), 1, 7), "step": Whole(1, 6)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"matrix": [[1], [1, 2]], "step": 1},
    {"matrix": [], "step": 1},
    {"matrix": [[1]], "step": 0},
    {"matrix": [[10]], "step": 1},
)
MAX_SIZE = 7


def generate(rng: Random, size: int) -> Given:
    """Matrices of any shape."""
    height, width = rng.randint((size + 1) // 2, size), rng.randint((size + 1) // 2, size)
    matrix = [[rng.randint(-9, 9) for _ in range(width)] for _ in range(height)]
    return {"matrix": matrix, "step": rng.randint(1, min(6, size + 1))}


SOLUTIONS = (
    """\
def solve(matrix, step):
    top, bottom = 0, len(matrix) - 1
    left, right = 0, len(matrix[0]) - 1
    walk = []
    while top <= bottom and left <= right:
        for x in range(left, right + 1):
            walk.append(matrix[top][x])
        for y in range(top + 1, bottom + 1):
            walk.append(matrix[y][right])
        if top < bottom:
            for x in range(right - 1, left - 1, -1):
                walk.append(matrix[bottom][x])
        if left < right:
            for y in range(bottom - 1, top, -1):
                walk.append(matrix[y][left])
        top, bottom, left, right = top + 1, bottom - 1, left + 1, right - 1
    return [sum(walk[i:i + step]) for i in range(0, len(walk), step)]
""",
    """\
def solve(matrix, step):
    rows = [list(row) for row in matrix]
    sums = []
    used = 0
    while rows:
        for value in rows.pop(0):
            if used % step == 0:
                sums.append(0)
            sums[-1] += value
            used += 1
        rows = [list(column) for column in zip(*rows)][::-1]
    return sums
""",
)
