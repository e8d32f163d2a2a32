"""How many rooms the meetings need."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "A meeting [a, b] uses a room from time a up to but not including time b. Return the largest "
    "number of meetings at one time, the earliest time at which that many take place, and the "
    "total time during which at least one meeting takes place. Without meetings return [0, 0, 0]. "
    "b is larger than a."
)
INPUTS = {"meetings": Items(Fixed((Whole(0, 60), Whole(0, 60))), 0, 20)}
OUTPUT = "a list of three integers"
REJECTED: tuple[Given, ...] = (
    {"meetings": [[1, 1]]},
    {"meetings": [[5, 2]]},
    {"meetings": [[0, 61]]},
)
MAX_SIZE = 20


def valid(given: Given) -> bool:
    """Meetings end after they start."""
    return all(a < b for a, b in given["meetings"])


def generate(rng: Random, size: int) -> Given:
    """Meetings that overlap and touch."""
    far = min(50, 5 + 2 * size)
    starts = [rng.randint(0, far) for _ in range(rng.randint(size // 2, size))]
    return {"meetings": [[a, a + rng.randint(1, 4 + size // 4)] for a in starts]}


SOLUTIONS = (
    """\
def solve(meetings):
    most = when = busy = 0
    for time in range(61):
        now = 0
        for a, b in meetings:
            if a <= time < b:
                now += 1
        if now > most:
            most, when = now, time
        if now > 0:
            busy += 1
    return [most, when, busy]
""",
    """\
def solve(meetings):
    events = sorted([(a, 1) for a, b in meetings] + [(b, -1) for a, b in meetings])
    now = most = when = busy = 0
    last = 0
    for time, change in events:
        if now > 0:
            busy += time - last
        last = time
        now += change
        if now > most:
            most = now
            when = time
    return [most, when, busy]
""",
)
