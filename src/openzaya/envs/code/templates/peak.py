"""Find a place that is higher than its neighbours."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "A peak is a place whose number is strictly larger than the numbers at distance 1 and 2 on "
    "both sides, as far as these exist. Return any peak, counted from 0, or -1 if there is none."
)
INPUTS = {"numbers": integers(1, 30, -20, 20)}
OUTPUT = "an integer"
REJECTED: tuple[Given, ...] = (
    {"numbers": []},
    {"numbers": [21]},
    {"numbers": [None]},
    {"numbers": "1"},
)


def generate(rng: Random, size: int) -> Given:
    """Ties make peaks rare."""
    count = rng.randint((size + 1) // 2, size)
    high = rng.choice((2, 3, 8))
    return {"numbers": [rng.randint(0, high) for _ in range(count)]}


def check(given: Given, output: object) -> bool:
    """The place is a peak, or there is none."""
    numbers = given["numbers"]
    peaks = [
        i
        for i, number in enumerate(numbers)
        if all(number > other for other in numbers[max(0, i - 2) : i] + numbers[i + 1 : i + 3])
    ]
    return type(output) is int and (output in peaks or (output == -1 and not peaks))


SOLUTIONS = (
    """\
def solve(numbers):
    n = len(numbers)
    for i in range(n):
        peak = True
        for step in (-2, -1, 1, 2):
            j = i + step
            if 0 <= j < n and numbers[j] >= numbers[i]:
                peak = False
        if peak:
            return i
    return -1
""",
    """\
def solve(numbers):
    low = min(numbers) - 1
    padded = [low, low] + numbers + [low, low]
    found = -1
    for i in range(2, len(padded) - 2):
        around = padded[i - 2:i] + padded[i + 1:i + 3]
        if padded[i] > max(around):
            found = i - 2
    return found
""",
)
