"""Pairs of places whose numbers add up to a target."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "Count the pairs of places i < j with numbers[i] + numbers[j] == target, and find the smallest "
    "distance j - i among them. With no such pair the distance is 0."
)
INPUTS = {"numbers": integers(0, 30, -20, 20), "target": Whole(-40, 40)}
OUTPUT = "a list of two integers: count and smallest distance"
REJECTED: tuple[Given, ...] = (
    {"numbers": [1]},
    {"numbers": [1], "target": 41},
    {"numbers": [1], "target": "2"},
)


def generate(rng: Random, size: int) -> Given:
    """Few different values, so that pairs exist."""
    numbers = [rng.randint(-4, 6) for _ in range(rng.randint(size // 2, size))]
    return {"numbers": numbers, "target": rng.randint(-3, 6)}


SOLUTIONS = (
    """\
def solve(numbers, target):
    count, nearest = 0, 0
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            if numbers[i] + numbers[j] == target:
                count += 1
                if nearest == 0 or j - i < nearest:
                    nearest = j - i
    return [count, nearest]
""",
    """\
def solve(numbers, target):
    places = {}
    count = 0
    distances = []
    for j, number in enumerate(numbers):
        earlier = places.get(target - number, [])
        count += len(earlier)
        if earlier:
            distances.append(j - earlier[-1])
        places.setdefault(number, []).append(j)
    return [count, min(distances, default=0)]
""",
)
