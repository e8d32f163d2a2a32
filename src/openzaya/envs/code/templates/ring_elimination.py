"""Counting out on a ring."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "People 1 to n stand on a ring. Counting starts at person 1 and always goes on with the next "
    "person who is still there; the step-th person counted leaves, and counting starts anew "
    "behind them. It ends when `stay` people are left. Return the people who left, in that order, "
    "followed by the sum of the numbers of those who stay. stay is at most n."
)
INPUTS = {"n": Whole(1, 24), "step": Whole(1, 12), "stay": Whole(0, 5)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"n": 0, "step": 1, "stay": 0},
    {"n": 2, "step": 1, "stay": 3},
    {"n": 2, "step": 0, "stay": 1},
)


def valid(given: Given) -> bool:
    """No more stay than there are."""
    return bool(given["stay"] <= given["n"])


def generate(rng: Random, size: int) -> Given:
    """Rings up to the size."""
    n = rng.randint((size + 1) // 2, size)
    return {"n": n, "step": rng.randint(1, 7), "stay": rng.randint(0, min(n, 4))}


SOLUTIONS = (
    """\
def solve(n, step, stay):
    people = list(range(1, n + 1))
    gone = []
    place = 0
    while len(people) > stay:
        place = (place + step - 1) % len(people)
        gone.append(people.pop(place))
    return gone + [sum(people)]
""",
    """\
from collections import deque

def solve(n, step, stay):
    ring = deque(range(1, n + 1))
    order = []
    for _ in range(n - stay):
        for _ in range(step - 1):
            ring.append(ring.popleft())
        order.append(ring.popleft())
    order.append(sum(ring))
    return order
""",
    """\
def solve(n, step, stay):
    here = [True] * n
    out = []
    person = -1
    while n - len(out) > stay:
        counted = 0
        while counted < step:
            person = (person + 1) % n
            if here[person]:
                counted += 1
        here[person] = False
        out.append(person + 1)
    rest = 0
    for i in range(n):
        if here[i]:
            rest += i + 1
    return out + [rest]
""",
)
