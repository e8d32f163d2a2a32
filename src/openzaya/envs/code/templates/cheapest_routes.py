"""Cheapest routes with tolls."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Roads join towns 0 to n - 1 in both directions; a line `a b c` is a road between a and b that "
    "costs c. For each town print the cost of the cheapest route from town 0, or x if there is "
    "none. On the next line print the number of towns whose cheapest route is the most expensive "
    "one."
)
INPUTS = {
    "n": Whole(1, 12),
    "roads": Items(Fixed((Whole(0, 11), Whole(0, 11), Whole(1, 50))), 0, 30),
}
LAYOUT = ("n #roads", "roads*")
OUTPUT = "a line with n words, then a line with one integer"
REJECTED: tuple[Given, ...] = (
    {"n": 1, "roads": [[0, 1, 5]]},
    {"n": 2, "roads": [[0, 1, 0]]},
    {"n": 0, "roads": []},
)
MAX_SIZE = 12


def valid(given: Given) -> bool:
    """Roads join towns that exist."""
    return all(max(road[:2]) < given["n"] for road in given["roads"])


def generate(rng: Random, size: int) -> Given:
    """Sparse graphs with small costs."""
    n = rng.randint((size + 1) // 2, size)
    count = rng.randint(n // 2, min(30, n + n // 2))
    roads = [[rng.randrange(n), rng.randrange(n), rng.randint(1, 12)] for _ in range(count)]
    return {"n": n, "roads": roads}


SOLUTIONS = (
    """\
import heapq

n, m = map(int, input().split())
near = [[] for _ in range(n)]
for _ in range(m):
    a, b, c = map(int, input().split())
    near[a].append((b, c))
    near[b].append((a, c))
cost = {}
heap = [(0, 0)]
while heap:
    total, town = heapq.heappop(heap)
    if town in cost:
        continue
    cost[town] = total
    for other, price in near[town]:
        if other not in cost:
            heapq.heappush(heap, (total + price, other))
print(*[cost.get(town, "x") for town in range(n)])
print(list(cost.values()).count(max(cost.values())))
""",
    """\
n, m = map(int, input().split())
roads = [tuple(map(int, input().split())) for _ in range(m)]
cost = [None] * n
cost[0] = 0
for _ in range(n):
    for a, b, c in roads:
        for start, end in ((a, b), (b, a)):
            if cost[start] is not None:
                if cost[end] is None or cost[start] + c < cost[end]:
                    cost[end] = cost[start] + c
top = 0
count = 0
for value in cost:
    if value is not None and value > top:
        top = value
for value in cost:
    if value == top:
        count += 1
print(" ".join("x" if value is None else str(value) for value in cost))
print(count)
""",
)
