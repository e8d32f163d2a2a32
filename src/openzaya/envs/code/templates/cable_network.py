"""The cheapest network of cables."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Houses are points of a grid; a cable between two houses costs the sum of the differences of "
    "their two coordinates. Join all houses at the lowest total cost. Return this cost and the "
    "cost of the most expensive cable used (0 if none is)."
)
INPUTS = {"houses": Items(Fixed((Whole(-20, 20), Whole(-20, 20))), 1, 16)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"houses": []},
    {"houses": [[1]]},
    {"houses": [[0, 21]]},
    {"houses": [[0, 0, 0]]},
)
MAX_SIZE = 16


def generate(rng: Random, size: int) -> Given:
    """Houses spread more widely for larger sizes."""
    far = min(20, 3 + size)
    count = rng.randint((size + 1) // 2, size)
    return {"houses": [[rng.randint(-far, far), rng.randint(-far, far)] for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(houses):
    def cost(a, b):
        return abs(a[0] - b[0]) + abs(a[1] - b[1])
    joined = [houses[0]]
    left = houses[1:]
    total = longest = 0
    while left:
        price, place = min((cost(a, b), i) for i, a in enumerate(left) for b in joined)
        total += price
        longest = max(longest, price)
        joined.append(left.pop(place))
    return [total, longest]
""",
    """\
def solve(houses):
    n = len(houses)
    cables = []
    for i in range(n):
        for j in range(i):
            dx = houses[i][0] - houses[j][0]
            dy = houses[i][1] - houses[j][1]
            cables.append((abs(dx) + abs(dy), i, j))
    cables.sort()
    group = list(range(n))
    used = []
    for price, i, j in cables:
        if group[i] != group[j]:
            old = group[i]
            group = [group[j] if g == old else g for g in group]
            used.append(price)
    return [sum(used), max(used + [0])]
""",
)
