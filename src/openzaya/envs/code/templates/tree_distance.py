"""Distances in a binary heap numbering."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "In an endless tree node k has the children branch * k + 1 to branch * k + branch, and node 0 "
    "is the root. Return for each query [a, b] the number of edges between a and b and their "
    "lowest common ancestor."
)
INPUTS = {"branch": Whole(1, 4), "queries": Items(Fixed((Whole(0, 60), Whole(0, 60))), 1, 12)}
OUTPUT = "a list of [edges, ancestor] pairs"
REJECTED: tuple[Given, ...] = (
    {"branch": 0, "queries": [[0, 0]]},
    {"branch": 2, "queries": []},
    {"branch": 2, "queries": [[61, 0]]},
)
MAX_SIZE = 12


def generate(rng: Random, size: int) -> Given:
    """Deeper nodes for larger sizes."""
    high = min(60, 6 + 6 * size)
    count = rng.randint((size + 1) // 2, size)
    queries = [[rng.randint(0, high), rng.randint(0, high)] for _ in range(count)]
    return {"branch": rng.randint(1, 4), "queries": queries}


SOLUTIONS = (
    """\
def solve(branch, queries):
    result = []
    for a, b in queries:
        edges = 0
        while a != b:
            if a > b:
                a = (a - 1) // branch
            else:
                b = (b - 1) // branch
            edges += 1
        result.append([edges, a])
    return result
""",
    """\
def solve(branch, queries):
    def line(node):
        path = [node]
        while path[-1] > 0:
            path.append((path[-1] - 1) // branch)
        return path
    answers = []
    for a, b in queries:
        above = line(b)
        for steps, node in enumerate(line(a)):
            if node in above:
                answers.append([steps + above.index(node), node])
                break
    return answers
""",
)
