"""Ways to throw a sum with uneven dice."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "Die i shows 1 to faces[i]. Return the number of ways to throw exactly the given sum with all "
    "dice (dice are different from each other), and the sum that has the most ways; of several "
    "take the smallest."
)
INPUTS = {"faces": integers(1, 8, 1, 12), "total": Whole(0, 60)}
OUTPUT = "a list of two integers: ways and sum"
REJECTED: tuple[Given, ...] = (
    {"faces": [], "total": 1},
    {"faces": [0], "total": 1},
    {"faces": [6], "total": -1},
)
MAX_SIZE = 16


def generate(rng: Random, size: int) -> Given:
    """Sums near the middle."""
    faces = [rng.randint(1, 3 + size // 2) for _ in range(rng.randint(1, 1 + size // 3))]
    return {"faces": faces, "total": rng.randint(len(faces) - 1, min(60, sum(faces)))}


SOLUTIONS = (
    """\
def solve(faces, total):
    ways = [1]
    for sides in faces:
        longer = [0] * (len(ways) + sides)
        for value in range(len(ways)):
            for shown in range(1, sides + 1):
                longer[value + shown] += ways[value]
        ways = longer
    likely = ways.index(max(ways))
    return [ways[total] if total < len(ways) else 0, likely]
""",
    """\
from functools import cache

def solve(faces, total):
    @cache
    def count(index, left):
        if index == len(faces):
            return 1 if left == 0 else 0
        if left <= 0:
            return 0
        return sum(count(index + 1, left - shown) for shown in range(1, faces[index] + 1))
    best = 0
    for value in range(sum(faces) + 1):
        if count(0, value) > count(0, best):
            best = value
    return [count(0, total), best]
""",
)
