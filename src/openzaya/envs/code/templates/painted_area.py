"""The area that rectangles cover."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "A rectangle [x, y, w, h] covers the unit cells from column x to x + w - 1 and from row y to "
    "y + h - 1. Rectangles are painted one after the other, each over what is there. Return the "
    "number of painted cells, the number of cells painted at least twice, and the number of cells "
    "of each rectangle that are still visible at the end."
)
INPUTS = {"rectangles": Items(Fixed((Whole(0, 12), Whole(0, 12), Whole(1, 8), Whole(1, 8))), 0, 10)}
OUTPUT = "a list: two integers, then one integer for each rectangle"
REJECTED: tuple[Given, ...] = (
    {"rectangles": [[0, 0, 0, 1]]},
    {"rectangles": [[0, 0, 1]]},
    {"rectangles": [[13, 0, 1, 1]]},
)
MAX_SIZE = 10


def generate(rng: Random, size: int) -> Given:
    """Rectangles that overlap."""
    far, wide = min(12, size), min(8, 2 + size // 2)
    count = rng.randint((size + 1) // 2, size)
    return {
        "rectangles": [
            [rng.randint(0, far), rng.randint(0, far), rng.randint(1, wide), rng.randint(1, wide)]
            for _ in range(count)
        ]
    }


SOLUTIONS = (
    """\
def solve(rectangles):
    owner = {}
    twice = set()
    for number, (x, y, w, h) in enumerate(rectangles):
        for column in range(x, x + w):
            for row in range(y, y + h):
                if (column, row) in owner:
                    twice.add((column, row))
                owner[(column, row)] = number
    visible = [0] * len(rectangles)
    for number in owner.values():
        visible[number] += 1
    return [len(owner), len(twice)] + visible
""",
    """\
def solve(rectangles):
    painted = twice = 0
    visible = [0 for _ in rectangles]
    for column in range(20):
        for row in range(20):
            hits = []
            for i, (x, y, w, h) in enumerate(rectangles):
                if x <= column < x + w and y <= row < y + h:
                    hits.append(i)
            if hits:
                painted += 1
                visible[hits[-1]] += 1
            if len(hits) > 1:
                twice += 1
    return [painted, twice, *visible]
""",
)
