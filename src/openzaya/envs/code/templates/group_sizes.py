"""Connected groups of a graph."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "People 0 to n - 1 know each other as the pairs say; friends of friends form one group. Return "
    "the sizes of all groups in descending order, followed by the smallest number of further pairs "
    "that would make it a single group."
)
INPUTS = {"n": Whole(1, 20), "pairs": Items(Fixed((Whole(0, 19), Whole(0, 19))), 0, 30)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"n": 2, "pairs": [[0, 2]]},
    {"n": 2, "pairs": [[0]]},
    {"n": 0, "pairs": []},
)
MAX_SIZE = 20


def valid(given: Given) -> bool:
    """Pairs name people who exist."""
    return all(max(pair) < given["n"] for pair in given["pairs"])


def generate(rng: Random, size: int) -> Given:
    """About half as many pairs as people."""
    n = rng.randint((size + 1) // 2, size)
    count = rng.randint(0, max(1, 2 * n // 3))
    return {"n": n, "pairs": [[rng.randrange(n), rng.randrange(n)] for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(n, pairs):
    parent = list(range(n))
    def root(x):
        while parent[x] != x:
            x = parent[x]
        return x
    for a, b in pairs:
        parent[root(a)] = root(b)
    sizes = [0] * n
    for person in range(n):
        sizes[root(person)] += 1
    sizes = sorted((s for s in sizes if s > 0), reverse=True)
    return sizes + [len(sizes) - 1]
""",
    """\
def solve(n, pairs):
    friends = [[] for _ in range(n)]
    for a, b in pairs:
        friends[a].append(b)
        friends[b].append(a)
    seen = [False] * n
    sizes = []
    for start in range(n):
        if seen[start]:
            continue
        seen[start] = True
        stack = [start]
        size = 0
        while stack:
            person = stack.pop()
            size += 1
            for other in friends[person]:
                if not seen[other]:
                    seen[other] = True
                    stack.append(other)
        sizes.append(size)
    sizes.sort()
    return sizes[::-1] + [len(sizes) - 1]
""",
)
