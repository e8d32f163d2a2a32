"""Twice the area of a polygon and the points on its edge."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "The points, in order, are the corners of a closed line; the last point is joined to the "
    "first. Return the absolute value of twice the signed area it encloses, 1 if the line turns "
    "counter-clockwise by that sign, -1 if clockwise, 0 if the area is 0, and the number of "
    "integer points on the line's sides, each side counted without its last point."
)
INPUTS = {"points": Items(Fixed((Whole(-20, 20), Whole(-20, 20))), 1, 14)}
OUTPUT = "a list of three integers: double area, direction, points"
REJECTED: tuple[Given, ...] = (
    {"points": []},
    {"points": [[1, 2, 3]]},
    {"points": [[21, 0]]},
    {"points": [[0, 0.5]]},
)
MAX_SIZE = 14


def generate(rng: Random, size: int) -> Given:
    """Corners at random."""
    far = min(20, 3 + size)
    count = rng.randint((size + 1) // 2, size)
    return {"points": [[rng.randint(-far, far), rng.randint(-far, far)] for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(points):
    area = 0
    edge = 0
    for i in range(len(points)):
        x1, y1 = points[i]
        x2, y2 = points[(i + 1) % len(points)]
        area += x1 * y2 - x2 * y1
        a, b = abs(x2 - x1), abs(y2 - y1)
        while b > 0:
            a, b = b, a % b
        edge += a
    sign = 0
    if area > 0:
        sign = 1
    elif area < 0:
        sign = -1
    return [abs(area), sign, edge]
""",
    """\
from math import gcd

def solve(points):
    following = points[1:] + points[:1]
    area = sum((c - a) * (b + d) for (a, b), (c, d) in zip(points, following))
    edge = sum(gcd(c - a, d - b) for (a, b), (c, d) in zip(points, following))
    return [abs(area), (area < 0) - (area > 0), edge]
""",
)
