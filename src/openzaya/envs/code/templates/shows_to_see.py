"""See as many shows as possible."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "A show [a, b] lasts from a to b. You see shows whole, one at a time, and need `rest` time "
    "between the end of one and the start of the next. Return the largest number of shows you can "
    "see and the earliest time at which you can be done with that many (0 for no shows). b is "
    "larger than a."
)
INPUTS = {"shows": Items(Fixed((Whole(0, 60), Whole(1, 80))), 0, 16), "rest": Whole(0, 5)}
OUTPUT = "a list of two integers: shows and time"
REJECTED: tuple[Given, ...] = (
    {"shows": [[2, 2]], "rest": 0},
    {"shows": [], "rest": 6},
    {"shows": [[1, 2]]},
)
MAX_SIZE = 16


def valid(given: Given) -> bool:
    """Shows end after they start."""
    return all(a < b for a, b in given["shows"])


def generate(rng: Random, size: int) -> Given:
    """Short and long shows."""
    starts = [rng.randint(0, min(60, 4 + 3 * size)) for _ in range(rng.randint(size // 2, size))]
    return {"shows": [[a, a + rng.randint(1, 8)] for a in starts], "rest": rng.randint(0, 3)}


SOLUTIONS = (
    """\
def solve(shows, rest):
    count = 0
    end = None
    for a, b in sorted(shows, key=lambda show: show[1]):
        if end is None or a >= end + rest:
            count += 1
            end = b
    return [count, 0 if end is None else end]
""",
    """\
def solve(shows, rest):
    shows = sorted(shows)
    best = [0, 0]
    chains = []
    for i, (a, b) in enumerate(shows):
        length = 1
        for j in range(i):
            if shows[j][1] + rest <= a and chains[j] + 1 > length:
                length = chains[j] + 1
        chains.append(length)
        if length > best[0] or (length == best[0] and b < best[1]):
            best = [length, b]
    return best
""",
)
