"""Who reaches whom along one-way streets."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "One-way streets lead between places 0 to n - 1. Return how many ordered pairs (a, b) of two "
    "different places there are such that b can be reached from a, and the list of places that "
    "can be reached from every other place, in ascending order."
)
INPUTS = {"n": Whole(1, 12), "streets": Items(Fixed((Whole(0, 11), Whole(0, 11))), 0, 24)}
OUTPUT = "a list: the number, then the list of places"
REJECTED: tuple[Given, ...] = (
    {"n": 1, "streets": [[0, 1]]},
    {"n": 13, "streets": []},
    {"n": 2, "streets": [0, 1]},
)
MAX_SIZE = 12


def valid(given: Given) -> bool:
    """Streets join places that exist."""
    return all(max(street) < given["n"] for street in given["streets"])


def generate(rng: Random, size: int) -> Given:
    """About as many streets as places."""
    n = rng.randint((size + 1) // 2, size)
    count = rng.randint(n // 2, min(24, n + 2))
    return {"n": n, "streets": [[rng.randrange(n), rng.randrange(n)] for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(n, streets):
    reach = [[False] * n for _ in range(n)]
    for a, b in streets:
        reach[a][b] = True
    for k in range(n):
        for i in range(n):
            for j in range(n):
                if reach[i][k] and reach[k][j]:
                    reach[i][j] = True
    count = 0
    hubs = []
    for j in range(n):
        incoming = [i for i in range(n) if i != j and reach[i][j]]
        count += len(incoming)
        if len(incoming) == n - 1:
            hubs.append(j)
    return [count, hubs]
""",
    """\
def solve(n, streets):
    hits = [0] * n
    for start in range(n):
        seen = {start}
        stack = [start]
        while stack:
            place = stack.pop()
            for a, b in streets:
                if a == place and b not in seen:
                    seen.add(b)
                    stack.append(b)
        for place in seen:
            hits[place] += 1
    return [sum(hits) - n, [i for i, hit in enumerate(hits) if hit == n]]
""",
)
