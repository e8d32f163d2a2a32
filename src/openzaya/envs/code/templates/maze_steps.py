"""The shortest way through a maze."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, Text

STATEMENT = (
    "The maze is a grid of open cells (.) and walls (#). A step goes up, down, left or right to an "
    "open cell. Print the fewest steps from the top left cell to the bottom right cell, or -1 if "
    "there is no way, and the number of cells that can be reached from the top left cell, itself "
    "included. If the top left cell is a wall, print -1 and 0."
)
INPUTS = {"rows": Grid(Text(1, 12, ".#"), 1, 12)}
LAYOUT = ("#rows", "rows*")
OUTPUT = "one line with two integers"
REJECTED: tuple[Given, ...] = ({"rows": []}, {"rows": ["..", "."]}, {"rows": ["x"]})
MAX_SIZE = 12


def generate(rng: Random, size: int) -> Given:
    """A third of the cells are walls."""
    height, width = rng.randint((size + 1) // 2, size), rng.randint((size + 1) // 2, size)
    rows = [
        "".join(rng.choice("...#" if size < 6 else "..#") for _ in range(width))
        for _ in range(height)
    ]
    return {"rows": rows}


SOLUTIONS = (
    """\
from collections import deque

height = int(input())
rows = [input() for _ in range(height)]
width = len(rows[0])
distance = {}
queue = deque()
if rows[0][0] == ".":
    distance[(0, 0)] = 0
    queue.append((0, 0))
while queue:
    y, x = queue.popleft()
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        cell = (y + dy, x + dx)
        if 0 <= cell[0] < height and 0 <= cell[1] < width and cell not in distance:
            if rows[cell[0]][cell[1]] == ".":
                distance[cell] = distance[(y, x)] + 1
                queue.append(cell)
print(distance.get((height - 1, width - 1), -1), len(distance))
""",
    """\
height = int(input())
rows = [input() for _ in range(height)]
width = len(rows[0])
layer = {(0, 0)} if rows[0][0] != "#" else set()
seen = set(layer)
steps = 0
answer = -1
while layer:
    if (height - 1, width - 1) in layer:
        answer = steps
    following = set()
    for y, x in layer:
        for cell in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= cell[0] < height and 0 <= cell[1] < width and rows[cell[0]][cell[1]] != "#":
                following.add(cell)
    layer = following - seen
    seen |= layer
    steps += 1
print(answer, len(seen))
""",
)
