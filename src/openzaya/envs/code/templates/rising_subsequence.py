"""A longest strictly rising subsequence with the smallest last number."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "A subsequence keeps some numbers in their order. Find the length of the longest strictly "
    "rising subsequence and, among all of that length, the smallest possible last number. For an "
    "empty list return [0, 0]."
)
INPUTS = {"numbers": integers(0, 30, -99, 99)}
OUTPUT = "a list of two integers: length and last number"
REJECTED: tuple[Given, ...] = (
    {"numbers": [100]},
    {"numbers": None},
    {"numbers": [1], "k": 1},
    {"numbers": [False]},
)


def generate(rng: Random, size: int) -> Given:
    """A noisy rise."""
    count = rng.randint(size // 2, size)
    return {"numbers": [i + rng.randint(-size, size) for i in range(count)]}


SOLUTIONS = (
    """\
def solve(numbers):
    if not numbers:
        return [0, 0]
    lengths = []
    for i, number in enumerate(numbers):
        longest = 0
        for j in range(i):
            if numbers[j] < number and lengths[j] > longest:
                longest = lengths[j]
        lengths.append(longest + 1)
    best = max(lengths)
    return [best, min(n for n, length in zip(numbers, lengths) if length == best)]
""",
    """\
from bisect import bisect_left

def solve(numbers):
    tails = []
    for number in numbers:
        place = bisect_left(tails, number)
        if place == len(tails):
            tails.append(number)
        else:
            tails[place] = number
    return [len(tails), tails[-1] if tails else 0]
""",
    """\
def solve(numbers):
    tails = []
    for number in numbers:
        low, high = 0, len(tails)
        while low < high:
            middle = (low + high) // 2
            if tails[middle] < number:
                low = middle + 1
            else:
                high = middle
        tails[low:low + 1] = [number]
    return [len(tails), (tails or [0])[-1]]
""",
)
