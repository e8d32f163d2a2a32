"""Rain between towers."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Towers of width 1 stand side by side with the given heights. After rain, water stands above a "
    "tower up to the lower of the highest towers on its two sides. Return how much water stands in "
    "all, and how many towers are under water."
)
INPUTS = {"heights": integers(0, 30, 0, 50)}
OUTPUT = "a list of two integers: water and towers"
REJECTED: tuple[Given, ...] = (
    {"heights": [-1]},
    {"heights": [51]},
    {"height": [1]},
    {"heights": [2.5]},
)


def generate(rng: Random, size: int) -> Given:
    """Hills and valleys."""
    count = rng.randint(size // 2, size)
    return {"heights": [rng.randint(0, 4 + size // 3) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(heights):
    water = 0
    wet = 0
    for i in range(1, len(heights) - 1):
        level = min(max(heights[:i]), max(heights[i + 1:]))
        if level > heights[i]:
            water += level - heights[i]
            wet += 1
    return [water, wet]
""",
    """\
def solve(heights):
    left, right = 0, len(heights) - 1
    left_top = right_top = 0
    water = wet = 0
    while left < right:
        if heights[left] < heights[right]:
            if heights[left] < left_top:
                water += left_top - heights[left]
                wet += 1
            else:
                left_top = heights[left]
            left += 1
        else:
            if heights[right] < right_top:
                water += right_top - heights[right]
                wet += 1
            else:
                right_top = heights[right]
            right -= 1
    return [water, wet]
""",
)
