"""Edit distance with a costly replacement."""

from random import Random

from openzaya.envs.code.grammar import Given, Text, Whole

STATEMENT = (
    "Change the text `source` into `goal`. Inserting a letter costs 2, deleting one costs 2, and "
    "replacing one by another costs the given price. Return the smallest total cost."
)
INPUTS = {"source": Text(0, 16, "abcd"), "goal": Text(0, 16, "abcd"), "price": Whole(1, 6)}
OUTPUT = "an integer"
REJECTED: tuple[Given, ...] = (
    {"source": "a", "goal": "b"},
    {"source": "a", "goal": "x", "price": 1},
    {"source": "a", "goal": "b", "price": 0},
)


def generate(rng: Random, size: int) -> Given:
    """The goal is a damaged copy."""
    source = [rng.choice("abcd") for _ in range(min(16, rng.randint(size // 2, size)))]
    goal = [rng.choice("abcd") if rng.random() < 0.3 else c for c in source if rng.random() < 0.8]
    goal += rng.choices("abcd", k=rng.randint(0, 2))
    return {"source": "".join(source), "goal": "".join(goal)[:16], "price": rng.randint(1, 6)}


SOLUTIONS = (
    """\
def solve(source, goal, price):
    rows, cols = len(source), len(goal)
    cost = [[0] * (cols + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        for j in range(cols + 1):
            if i == 0 or j == 0:
                cost[i][j] = 2 * (i + j)
            elif source[i - 1] == goal[j - 1]:
                cost[i][j] = cost[i - 1][j - 1]
            else:
                step = min(cost[i - 1][j], cost[i][j - 1]) + 2
                cost[i][j] = min(step, cost[i - 1][j - 1] + price)
    return cost[rows][cols]
""",
    """\
from functools import cache

def solve(source, goal, price):
    @cache
    def cost(i, j):
        if i == len(source):
            return 2 * (len(goal) - j)
        if j == len(goal):
            return 2 * (len(source) - i)
        change = 0 if source[i] == goal[j] else price
        return min(cost(i + 1, j + 1) + change, cost(i + 1, j) + 2, cost(i, j + 1) + 2)
    return cost(0, 0)
""",
)
