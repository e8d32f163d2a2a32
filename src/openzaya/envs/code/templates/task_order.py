"""The smallest order that respects all dependencies."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Tasks 0 to n - 1 are done one after the other. A pair [a, b] says that a must be done before "
    "b. Always do the task with the smallest number among those that may be done. Return the tasks "
    "in the order done; tasks that can never be done, because of a circle, do not appear."
)
INPUTS = {"n": Whole(1, 19), "pairs": Items(Fixed((Whole(0, 18), Whole(0, 18))), 0, 30)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"n": 1, "pairs": [[0, 1]]},
    {"n": 2, "pairs": [[0, 1, 1]]},
    {"n": "2", "pairs": []},
)
MAX_SIZE = 19


def valid(given: Given) -> bool:
    """Pairs name tasks that exist."""
    return all(max(pair) < given["n"] for pair in given["pairs"])


def generate(rng: Random, size: int) -> Given:
    """Mostly along a hidden order, sometimes against it."""
    n = rng.randint((size + 1) // 2, size)
    order = rng.sample(range(n), n)
    pairs = []
    for _ in range(rng.randint(0, min(30, n + n // 2))):
        a, b = sorted((rng.randrange(n), rng.randrange(n)))
        if a != b or rng.random() < 0.1:
            pairs.append([order[a], order[b]] if rng.random() < 0.95 else [order[b], order[a]])
    return {"n": n, "pairs": pairs}


SOLUTIONS = (
    """\
def solve(n, pairs):
    done = []
    while True:
        for task in range(n):
            if task in done:
                continue
            if all(a in done for a, b in pairs if b == task):
                done.append(task)
                break
        else:
            return done
""",
    """\
import heapq

def solve(n, pairs):
    waits = [0] * n
    after = [[] for _ in range(n)]
    for a, b in pairs:
        waits[b] += 1
        after[a].append(b)
    ready = [task for task in range(n) if waits[task] == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        task = heapq.heappop(ready)
        order.append(task)
        for other in after[task]:
            waits[other] -= 1
            if waits[other] == 0:
                heapq.heappush(ready, other)
    return order
""",
)
