"""The k-th smallest among several sorted lists."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Whole, integers

STATEMENT = (
    "Each list is sorted in ascending order. Merge them all and keep every value once. Return the "
    "k-th smallest of the merged values, k counted from 1, or -1 if there are fewer, and how many "
    "of the lists hold that value (0 for -1)."
)
INPUTS = {"lists": Items(integers(0, 12, 0, 99), 1, 6), "k": Whole(1, 40)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"lists": [[2, 1]], "k": 1},
    {"lists": [], "k": 1},
    {"lists": [[1]], "k": 0},
)


def valid(given: Given) -> bool:
    """Every list ascends."""
    return all(row == sorted(row) for row in given["lists"])


def generate(rng: Random, size: int) -> Given:
    """Lists that overlap."""
    rows = rng.randint(2, 2 + size // 6)
    high = 5 + size
    lists = [
        sorted(rng.randint(0, high) for _ in range(rng.randint(0, 2 + size // 3)))
        for _ in range(rows)
    ]
    return {"lists": lists, "k": rng.randint(1, max(2, size // 2))}


SOLUTIONS = (
    """\
def solve(lists, k):
    values = sorted({value for row in lists for value in row})
    if k > len(values):
        return [-1, 0]
    wanted = values[k - 1]
    holders = 0
    for row in lists:
        if wanted in row:
            holders += 1
    return [wanted, holders]
""",
    """\
def solve(lists, k):
    places = [0] * len(lists)
    while True:
        heads = [row[p] for row, p in zip(lists, places) if p < len(row)]
        if not heads:
            return [-1, 0]
        smallest = min(heads)
        k -= 1
        if k == 0:
            return [smallest, heads.count(smallest)]
        for i, row in enumerate(lists):
            while places[i] < len(row) and row[places[i]] == smallest:
                places[i] += 1
""",
)
