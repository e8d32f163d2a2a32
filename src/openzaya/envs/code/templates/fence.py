"""The convex hull of trees."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Put the shortest fence around the trees. Return the trees at the corners of the fence, "
    "counter-clockwise (x to the right, y up), starting with the leftmost one and of several "
    "leftmost the lowest; trees on a straight side are no corners and trees on one spot count "
    "once. If all trees stand on one line, return its two ends, or the single spot."
)
INPUTS = {"trees": Items(Fixed((Whole(-15, 15), Whole(-15, 15))), 1, 16)}
OUTPUT = "a list of [x, y] pairs"
REJECTED: tuple[Given, ...] = (
    {"trees": []},
    {"trees": [[0]]},
    {"trees": [[16, 0]]},
    {"trees": [["0", "0"]]},
)
MAX_SIZE = 16


def generate(rng: Random, size: int) -> Given:
    """Narrow ranges make straight sides."""
    far = min(15, 1 + size // 2)
    count = rng.randint((size + 1) // 2, size)
    return {"trees": [[rng.randint(-far, far), rng.randint(-far, far)] for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(trees):
    points = sorted(set(map(tuple, trees)))
    if len(points) == 1:
        return [list(points[0])]
    def half(line):
        kept = []
        for x, y in line:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2], kept[-1]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]
    return [list(p) for p in half(points) + half(points[::-1])]
""",
    """\
def solve(trees):
    spots = {tuple(tree) for tree in trees}
    start = min(spots)
    fence = [start]
    while True:
        here = fence[-1]
        best = None
        for spot in spots:
            if spot == here:
                continue
            if best is None:
                best = spot
                continue
            ax, ay = best[0] - here[0], best[1] - here[1]
            bx, by = spot[0] - here[0], spot[1] - here[1]
            turn = ax * by - ay * bx
            if turn < 0 or (turn == 0 and bx * bx + by * by > ax * ax + ay * ay):
                best = spot
        if best is None or best == start:
            return [list(spot) for spot in fence]
        fence.append(best)
""",
)
