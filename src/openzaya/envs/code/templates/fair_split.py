"""Split weights as evenly as possible."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Split the weights into two sides so that the difference of the two sums is as small as "
    "possible. Return the places of the weights on one of the sides, in ascending order; any best "
    "split and either side is right."
)
INPUTS = {"weights": integers(1, 12, 1, 60)}
OUTPUT = "a list of places, counted from 0"
REJECTED: tuple[Given, ...] = (
    {"weights": []},
    {"weights": [0]},
    {"weights": [61]},
    {"weights": [[1]]},
)
MAX_SIZE = 12


def generate(rng: Random, size: int) -> Given:
    """Uneven weights."""
    count = rng.randint((size + 1) // 2, size)
    return {"weights": [rng.randint(1, rng.choice((9, 60))) for _ in range(count)]}


def check(given: Given, output: object) -> bool:
    """The places ascend and their side comes as near to half as any."""
    weights = given["weights"]
    if not isinstance(output, list) or any(type(place) is not int for place in output):
        return False
    if output != sorted(set(output)) or not all(0 <= p < len(weights) for p in output):
        return False
    total = sum(weights)
    sums = {0}
    for weight in weights:
        sums |= {s + weight for s in sums}
    chosen = sum(weights[place] for place in output)
    return all(abs(total - 2 * chosen) <= abs(total - 2 * s) for s in sums)


SOLUTIONS = (
    """\
def solve(weights):
    total = sum(weights)
    best, best_mask = total + 1, 0
    for mask in range(1 << len(weights)):
        side = sum(w for i, w in enumerate(weights) if mask >> i & 1)
        gap = abs(total - 2 * side)
        if gap < best:
            best, best_mask = gap, mask
    return [i for i in range(len(weights)) if best_mask >> i & 1]
""",
    """\
def solve(weights):
    reached = {0: []}
    for i, weight in enumerate(weights):
        for side in list(reached):
            if side + weight not in reached:
                reached[side + weight] = reached[side] + [i]
    total = sum(weights)
    best = 0
    for side in reached:
        if abs(total - 2 * side) < abs(total - 2 * best):
            best = side
    return reached[best]
""",
)
