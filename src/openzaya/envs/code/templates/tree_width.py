"""The longest path in a tree."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Node 0 is the root of a tree; parents[i] is the parent of node i + 1. Return the number of "
    "edges of the longest path between any two nodes, and the smallest depth that the lowest "
    "common ancestor of two nodes with this distance has (the root has depth 0). A parent always "
    "has a smaller number than its child."
)
INPUTS = {"parents": integers(0, 23, 0, 22)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"parents": [1]},
    {"parents": [0, 2]},
    {"parents": [-1]},
    {"parents": None},
)
MAX_SIZE = 20


def valid(given: Given) -> bool:
    """A parent has a smaller number than its child."""
    return all(parent <= i for i, parent in enumerate(given["parents"]))


def generate(rng: Random, size: int) -> Given:
    """Long and bushy trees."""
    back = rng.choice((2, 3, 30))
    count = rng.randint(size // 2, size)
    return {"parents": [rng.randint(max(0, i - back), i) for i in range(count)]}


SOLUTIONS = (
    """\
def solve(parents):
    n = len(parents) + 1
    height = [0] * n
    depth = [0] * n
    best = [0, 0]
    through = [0] * n
    for node in range(1, n):
        depth[node] = depth[parents[node - 1]] + 1
    for node in range(n - 1, 0, -1):
        up = parents[node - 1]
        through[up] = max(through[up], height[up] + height[node] + 1)
        height[up] = max(height[up], height[node] + 1)
    width = max(through)
    return [width, min(depth[i] for i in range(n) if through[i] == width)]
""",
    """\
def solve(parents):
    def ancestors(node):
        line = [node]
        while node > 0:
            node = parents[node - 1]
            line.append(node)
        return line[::-1]
    lines = [ancestors(node) for node in range(len(parents) + 1)]
    best = (0, 0)
    for a in lines:
        for b in lines:
            shared = 0
            while shared < min(len(a), len(b)) and a[shared] == b[shared]:
                shared += 1
            length = len(a) + len(b) - 2 * shared
            best = max(best, (length, 1 - shared))
    return [best[0], -best[1]]
""",
)
