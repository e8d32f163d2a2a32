"""Islands on a map and their coasts."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, Text

STATEMENT = (
    "The map shows land (#) and water (.). Land cells that touch along a side form an island. "
    "Return for each island its number of cells and the length of its coast, that is the number of "
    "cell sides that border on water or on the edge of the map. Larger islands come first, equal "
    "ones by shorter coast."
)
INPUTS = {"rows": Grid(Text(1, 10, ".#"), 1, 10)}
OUTPUT = "a list of [cells, coast] pairs"
REJECTED: tuple[Given, ...] = (
    {"rows": [".", ".."]},
    {"rows": [""]},
    {"rows": "#"},
    {"rows": ["o"]},
)
MAX_SIZE = 10


def generate(rng: Random, size: int) -> Given:
    """Half land."""
    height, width = rng.randint((size + 1) // 2, size), rng.randint((size + 1) // 2, size)
    land = rng.choice(("..#", ".#"))
    return {"rows": ["".join(rng.choice(land) for _ in range(width)) for _ in range(height)]}


SOLUTIONS = (
    """\
def solve(rows):
    height, width = len(rows), len(rows[0])
    seen = set()
    found = []
    for y in range(height):
        for x in range(width):
            if rows[y][x] == "." or (y, x) in seen:
                continue
            seen.add((y, x))
            stack = [(y, x)]
            cells = coast = 0
            while stack:
                cy, cx = stack.pop()
                cells += 1
                for ny, nx in ((cy + 1, cx), (cy - 1, cx), (cy, cx + 1), (cy, cx - 1)):
                    if not (0 <= ny < height and 0 <= nx < width) or rows[ny][nx] == ".":
                        coast += 1
                    elif (ny, nx) not in seen:
                        seen.add((ny, nx))
                        stack.append((ny, nx))
            found.append([cells, coast])
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    return found
""",
    """\
def solve(rows):
    land = {(y, x) for y, row in enumerate(rows) for x, c in enumerate(row) if c == "#"}
    def around(y, x):
        return [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    islands = []
    left = set(land)
    while left:
        island = set()
        edge = {left.pop()}
        while edge:
            island |= edge
            edge = {cell for spot in edge for cell in around(*spot) if cell in land} - island
        left -= island
        coast = sum(1 for spot in island for cell in around(*spot) if cell not in land)
        islands.append((-len(island), coast))
    return [[-cells, coast] for cells, coast in sorted(islands)]
""",
)
