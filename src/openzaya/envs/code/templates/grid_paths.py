"""Paths through a grid with obstacles and coins."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, Text

STATEMENT = (
    "Walk from the top left to the bottom right cell, going only right or down. Cells are open "
    "(.), blocked (#) or hold one coin (o). Return the number of different paths and the most "
    "coins a path can collect. Without any path return [0, -1]."
)
INPUTS = {"rows": Grid(Text(1, 9, ".#o"), 1, 9)}
OUTPUT = "a list of two integers: paths and coins"
REJECTED: tuple[Given, ...] = (
    {"rows": []},
    {"rows": ["..", "."]},
    {"rows": ["x"]},
    {"rows": [["."]]},
)
MAX_SIZE = 9


def generate(rng: Random, size: int) -> Given:
    """Few obstacles."""
    height, width = rng.randint((size + 1) // 2, size), rng.randint((size + 1) // 2, size)
    cells = rng.choice(("...o", ".....oo#"))
    return {"rows": ["".join(rng.choice(cells) for _ in range(width)) for _ in range(height)]}


SOLUTIONS = (
    """\
def solve(rows):
    width = len(rows[0])
    paths = [0] * width
    coins = [-1] * width
    for y, row in enumerate(rows):
        for x in range(width):
            if row[x] == "#":
                paths[x], coins[x] = 0, -1
                continue
            if y == 0 and x == 0:
                paths[x], coins[x] = 1, 0
            elif x > 0:
                paths[x] += paths[x - 1]
                coins[x] = max(coins[x], coins[x - 1])
            if coins[x] >= 0 and row[x] == "o":
                coins[x] += 1
    return [paths[-1], coins[-1]]
""",
    """\
from functools import cache

def solve(rows):
    height, width = len(rows), len(rows[0])

    @cache
    def walk(y, x):
        if y >= height or x >= width or rows[y][x] == "#":
            return 0, -1
        coin = 1 if rows[y][x] == "o" else 0
        if (y, x) == (height - 1, width - 1):
            return 1, coin
        down, right = walk(y + 1, x), walk(y, x + 1)
        count = down[0] + right[0]
        if count == 0:
            return 0, -1
        return count, max(down[1], right[1]) + coin

    return list(walk(0, 0))
""",
)
