"""Insert numbers into a binary search tree."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Insert the numbers one after the other into a binary search tree without balancing: smaller "
    "numbers go left, larger ones right, and a number that is already there is ignored. Return the "
    "number of nodes on each level from the root down, followed by the sum of the values of all "
    "leaves."
)
INPUTS = {"numbers": integers(0, 24, 0, 99)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": [100]},
    {"numbers": [-1]},
    {"numbers": [0.5]},
    {"tree": [1]},
)


def generate(rng: Random, size: int) -> Given:
    """Numbers with some repeats."""
    count = rng.randint(size // 2, size)
    return {"numbers": [rng.randint(0, min(99, 3 * size)) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(numbers):
    root = None
    for number in numbers:
        if root is None:
            root = [number, None, None]
            continue
        node = root
        while node[0] != number:
            side = 1 if number < node[0] else 2
            if node[side] is None:
                node[side] = [number, None, None]
            node = node[side]
    result = []
    leaves = 0
    level = [root] if root else []
    while level:
        result.append(len(level))
        leaves += sum(node[0] for node in level if node[1] is None and node[2] is None)
        level = [child for node in level for child in node[1:] if child is not None]
    return result + [leaves]
""",
    """\
def solve(numbers):
    def walk(values, depth):
        if not values:
            return 0
        if depth == len(counts):
            counts.append(0)
        counts[depth] += 1
        left = [v for v in values[1:] if v < values[0]]
        right = [v for v in values[1:] if v > values[0]]
        if not left and not right:
            return values[0]
        return walk(left, depth + 1) + walk(right, depth + 1)
    counts = []
    leaves = walk(numbers, 0)
    return counts + [leaves]
""",
)
