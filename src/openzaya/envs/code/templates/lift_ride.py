"""A lift that serves calls in passing."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "A lift stands at a floor and has a list of floors to visit. It first goes up as long as there "
    "is an unvisited floor above or at its floor, then turns and goes down to all floors below "
    "its start. Moving one floor takes 2 seconds and each stop at a different floor takes 5; a "
    "floor wanted twice is one stop. Return the floors in the order of the stops, followed by the "
    "number of seconds until the last stop is over."
)
INPUTS = {"start": Whole(0, 40), "wanted": integers(0, 20, 0, 40)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"start": 41, "wanted": []},
    {"start": 1, "wanted": [-1]},
    {"start": 1, "wanted": 3},
)
MAX_SIZE = 20


def generate(rng: Random, size: int) -> Given:
    """Floors around the start."""
    top = min(40, 5 + 2 * size)
    count = rng.randint(size // 2 + 1, size)
    return {"start": rng.randint(0, top), "wanted": [rng.randint(0, top) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(start, wanted):
    floors = sorted(set(wanted))
    up = [floor for floor in floors if floor >= start]
    down = [floor for floor in floors if floor < start]
    stops = up + down[::-1]
    seconds = 0
    here = start
    for floor in stops:
        seconds += 2 * abs(floor - here) + 5
        here = floor
    return stops + [seconds]
""",
    """\
def solve(start, wanted):
    left = set(wanted)
    floor, step = start, 1
    time = 0
    order = []
    while left:
        if floor in left:
            left.remove(floor)
            order.append(floor)
            time += 5
            continue
        if step == 1 and not any(other > floor for other in left):
            step = -1
        floor += step
        time += 2
    return [*order, time]
""",
)
