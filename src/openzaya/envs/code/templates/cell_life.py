"""Cells that live and die."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, Text, Whole

STATEMENT = (
    "Living cells (#) and dead ones (.) stand in a grid whose opposite edges touch. In each step, "
    "at once for all cells, a living cell stays alive with 2 or 3 living neighbours among the 8 "
    "cells around it, and a dead cell comes alive with exactly 3. Return the rows after the given "
    "number of steps."
)
INPUTS = {"rows": Grid(Text(3, 8, ".#"), 3, 8), "steps": Whole(0, 4)}
OUTPUT = "a list of strings"
REJECTED: tuple[Given, ...] = (
    {"rows": ["...", "..."], "steps": 1},
    {"rows": ["..."] * 3, "steps": 5},
    {"rows": ["...", "..", "..."], "steps": 1},
)
MAX_SIZE = 8


def generate(rng: Random, size: int) -> Given:
    """A third to a half alive."""
    height, width = rng.randint(3, max(3, size)), rng.randint(3, max(3, size))
    cells = rng.choice((".#", "..#"))
    rows = ["".join(rng.choice(cells) for _ in range(width)) for _ in range(height)]
    return {"rows": rows, "steps": rng.randint(1, 1 + size // 3)}


SOLUTIONS = (
    """\
def solve(rows, steps):
    height, width = len(rows), len(rows[0])
    for _ in range(steps):
        following = []
        for y in range(height):
            line = ""
            for x in range(width):
                alive = 0
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if dy == 0 and dx == 0:
                            continue
                        if rows[(y + dy) % height][(x + dx) % width] == "#":
                            alive += 1
                if alive == 3 or (alive == 2 and rows[y][x] == "#"):
                    line += "#"
                else:
                    line += "."
            following.append(line)
        rows = following
    return rows
""",
    """\
def solve(rows, steps):
    height, width = len(rows), len(rows[0])
    living = {(y, x) for y in range(height) for x in range(width) if rows[y][x] == "#"}
    while steps > 0:
        counts = {}
        for y, x in living:
            for place in range(9):
                if place != 4:
                    cell = ((y + place // 3 - 1) % height, (x + place % 3 - 1) % width)
                    counts[cell] = counts.get(cell, 0) + 1
        living = {cell for cell, n in counts.items() if n == 3 or n == 2 and cell in living}
        steps -= 1
    return ["".join("#" if (y, x) in living else "." for x in range(width)) for y in range(height)]
""",
)
