"""The table of a league."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Teams 0 to n - 1 play. A game [a, b, x, y] means that team a scored x goals and team b "
    "scored y. A win gives 3 points, a draw 1 to both. Return the teams from the best to the "
    "worst: more points first, then the larger difference of scored and received goals, then more "
    "scored goals, then the smaller number; each as [team, points, difference]. a and b are "
    "always different teams."
)
INPUTS = {
    "n": Whole(2, 8),
    "games": Items(Fixed((Whole(0, 7), Whole(0, 7), Whole(0, 9), Whole(0, 9))), 0, 18),
}
OUTPUT = "a list of [team, points, difference] lists"
REJECTED: tuple[Given, ...] = (
    {"n": 2, "games": [[0, 0, 1, 1]]},
    {"n": 2, "games": [[0, 2, 1, 1]]},
    {"n": 1, "games": []},
    {"n": 2, "games": [[0, 1, -1, 0]]},
)
MAX_SIZE = 18


def valid(given: Given) -> bool:
    """Games join two different teams that exist."""
    return all(a != b and max(a, b) < given["n"] for a, b, _, _ in given["games"])


def generate(rng: Random, size: int) -> Given:
    """Low scores, so that ties happen."""
    n = rng.randint(2, 2 + min(6, size // 3))
    games = []
    for _ in range(rng.randint((size + 1) // 2, size)):
        a, b = rng.sample(range(n), 2)
        games.append([a, b, rng.randint(0, 3), rng.randint(0, 3)])
    return {"n": n, "games": games}


SOLUTIONS = (
    """\
def solve(n, games):
    points, scored, received = [0] * n, [0] * n, [0] * n
    for a, b, x, y in games:
        scored[a] += x
        received[a] += y
        scored[b] += y
        received[b] += x
        if x > y:
            points[a] += 3
        elif x < y:
            points[b] += 3
        else:
            points[a] += 1
            points[b] += 1
    def key(team):
        return -points[team], received[team] - scored[team], -scored[team], team
    order = sorted(range(n), key=key)
    return [[team, points[team], scored[team] - received[team]] for team in order]
""",
    """\
def solve(n, games):
    table = []
    for team in range(n):
        points = difference = goals = 0
        for a, b, x, y in games:
            if b == team:
                a, x, y = b, y, x
            if a != team:
                continue
            goals += x
            difference += x - y
            points += 3 if x > y else 1 if x == y else 0
        table.append((points, difference, goals, -team))
    table.sort(reverse=True)
    return [[-row[3], row[0], row[1]] for row in table]
""",
)
