"""A number game of halving and tripling."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "An even number is halved; an odd number n becomes 3 * n + add. Start with the number and stop "
    "when 1 is reached or after 60 steps. Return the number of steps done, the largest number met "
    "(the first one included) and how many of the steps were halvings."
)
INPUTS = {"number": Whole(1, 9999), "add": Whole(1, 5)}
OUTPUT = "a list of three integers"
REJECTED: tuple[Given, ...] = (
    {"number": 0, "add": 1},
    {"number": 1, "add": 0},
    {"number": True, "add": 1},
)


def generate(rng: Random, size: int) -> Given:
    """Larger numbers for larger sizes."""
    return {"number": rng.randint(1, min(9999, 6 * size * size)), "add": rng.choice((1, 1, 3, 5))}


SOLUTIONS = (
    """\
def solve(number, add):
    steps = halvings = 0
    largest = number
    while number != 1 and steps < 60:
        if number % 2 == 0:
            number //= 2
            halvings += 1
        else:
            number = 3 * number + add
        largest = max(largest, number)
        steps += 1
    return [steps, largest, halvings]
""",
    """\
def solve(number, add):
    path = [number]
    for _ in range(60):
        current = path[-1]
        if current == 1:
            break
        path.append(current * 3 + add if current & 1 else current >> 1)
    down = sum(1 for a, b in zip(path, path[1:]) if b < a)
    return [len(path) - 1, max(path), down]
""",
)
