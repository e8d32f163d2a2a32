"""The maximum of each window."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "A window of the given width slides over the numbers one place at a time. Return the list of "
    "differences between the largest and the smallest number in each window. A width larger than "
    "the list gives an empty list."
)
INPUTS = {"numbers": integers(0, 30, -99, 99), "width": Whole(1, 30)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": [1], "width": 0},
    {"numbers": [1]},
    {"numbers": [1], "width": True},
)


def generate(rng: Random, size: int) -> Given:
    """Widths from 1 to a bit more than the list."""
    numbers = [rng.randint(-20, 40) for _ in range(rng.randint(size // 2 + 1, size + 1))]
    return {"numbers": numbers, "width": rng.randint(1, min(2 + size // 3, 30))}


SOLUTIONS = (
    """\
def solve(numbers, width):
    result = []
    for start in range(len(numbers) - width + 1):
        low = high = numbers[start]
        for i in range(start + 1, start + width):
            if numbers[i] < low:
                low = numbers[i]
            elif numbers[i] > high:
                high = numbers[i]
        result.append(high - low)
    return result
""",
    """\
from collections import deque

def solve(numbers, width):
    tops, bottoms, result = deque(), deque(), []
    for i, number in enumerate(numbers):
        while tops and numbers[tops[-1]] <= number:
            tops.pop()
        while bottoms and numbers[bottoms[-1]] >= number:
            bottoms.pop()
        tops.append(i)
        bottoms.append(i)
        if tops[0] <= i - width:
            tops.popleft()
        if bottoms[0] <= i - width:
            bottoms.popleft()
        if i >= width - 1:
            result.append(numbers[tops[0]] - numbers[bottoms[0]])
    return result
""",
)
