"""Tails and circles of a chain of pointers."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "Room i has a door to room doors[i]. Start in the given room and go on through the doors. "
    "Return the number of rooms visited before the circle that you end in, the number of rooms on "
    "that circle, and the number of rooms from which one ends in this same circle, the circle's "
    "own rooms included."
)
INPUTS = {"doors": integers(1, 24, 0, 23), "start": Whole(0, 23)}
OUTPUT = "a list of three integers"
REJECTED: tuple[Given, ...] = (
    {"doors": [1], "start": 0},
    {"doors": [0], "start": 1},
    {"doors": [], "start": 0},
)


def valid(given: Given) -> bool:
    """Doors and start name rooms that exist."""
    return all(room < len(given["doors"]) for room in [*given["doors"], given["start"]])


def generate(rng: Random, size: int) -> Given:
    """Doors at random, often to near rooms."""
    n = rng.randint((size + 1) // 2, size)
    doors = [rng.choice((rng.randrange(n), (i + 1) % n, (i + 1) % n)) for i in range(n)]
    return {"doors": doors, "start": rng.randrange(n)}


SOLUTIONS = (
    """\
def solve(doors, start):
    order = {}
    room = start
    while room not in order:
        order[room] = len(order)
        room = doors[room]
    tail = order[room]
    circle = len(order) - tail
    members = 0
    for first in range(len(doors)):
        spot = first
        for _ in range(len(doors)):
            spot = doors[spot]
        if order.get(spot, -1) >= tail:
            members += 1
    return [tail, circle, members]
""",
    """\
def solve(doors, start):
    slow, fast = doors[start], doors[doors[start]]
    while slow != fast:
        slow, fast = doors[slow], doors[doors[fast]]
    tail = 0
    slow = start
    while slow != fast:
        slow, fast = doors[slow], doors[fast]
        tail += 1
    circle = 1
    fast = doors[slow]
    while fast != slow:
        fast = doors[fast]
        circle += 1
    inside = {slow}
    while True:
        more = {i for i, door in enumerate(doors) if door in inside} - inside
        if not more:
            return [tail, circle, len(inside)]
        inside |= more
""",
)
