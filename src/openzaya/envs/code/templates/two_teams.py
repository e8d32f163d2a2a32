"""Split people into two teams without enemies."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Each pair names two enemies among people 0 to n - 1. Give each person team 0 or team 1 so "
    "that enemies are never in one team: any such list of teams is right. If it cannot be done, "
    "return the empty list. Nobody is their own enemy."
)
INPUTS = {"n": Whole(1, 16), "pairs": Items(Fixed((Whole(0, 15), Whole(0, 15))), 0, 24)}
OUTPUT = "a list of n teams, or an empty list"
REJECTED: tuple[Given, ...] = (
    {"n": 1, "pairs": [[0, 0]]},
    {"n": 2, "pairs": [[0, 2]]},
    {"n": 17, "pairs": []},
)
MAX_SIZE = 16


def valid(given: Given) -> bool:
    """Pairs name two different people who exist."""
    return all(a != b and max(a, b) < given["n"] for a, b in given["pairs"])


def generate(rng: Random, size: int) -> Given:
    """Mostly pairs across a hidden split."""
    n = rng.randint((size + 1) // 2 + 1, size + 1) if size < 16 else 16
    teams = [rng.randint(0, 1) for _ in range(n)]
    pairs = []
    odd = rng.random() < 0.2
    for _ in range(min(24, rng.randint(0, 2 * n))):
        a, b = rng.randrange(n), rng.randrange(n)
        if a != b and (teams[a] != teams[b] or odd):
            pairs.append([a, b])
    return {"n": n, "pairs": pairs}


def check(given: Given, output: object) -> bool:
    """Enemies are apart; the empty list is right only where no split exists."""
    n, pairs = given["n"], given["pairs"]
    if output == []:
        return _split(n, pairs) is None
    if not isinstance(output, list) or len(output) != n:
        return False
    if any(type(team) is not int or team not in (0, 1) for team in output):
        return False
    return all(output[a] != output[b] for a, b in pairs)


def _split(n: int, pairs: list[list[int]]) -> list[int] | None:
    parent = list(range(2 * n))

    def root(x: int) -> int:
        while parent[x] != x:
            x = parent[x]
        return x

    for a, b in pairs:
        parent[root(a)] = root(b + n)
        parent[root(b)] = root(a + n)
    return None if any(root(x) == root(x + n) for x in range(n)) else parent[:n]


SOLUTIONS = (
    """\
def solve(n, pairs):
    enemies = [[] for _ in range(n)]
    for a, b in pairs:
        enemies[a].append(b)
        enemies[b].append(a)
    team = [-1] * n
    for start in range(n):
        if team[start] >= 0:
            continue
        team[start] = 0
        stack = [start]
        while stack:
            person = stack.pop()
            for other in enemies[person]:
                if team[other] < 0:
                    team[other] = 1 - team[person]
                    stack.append(other)
                elif team[other] == team[person]:
                    return []
    return team
""",
    """\
def solve(n, pairs):
    team = list(range(n))
    turned = [0] * n
    for a, b in pairs:
        if team[a] == team[b]:
            if turned[a] == turned[b]:
                return []
            continue
        old, flip = team[b], 1 - (turned[a] ^ turned[b])
        for person in range(n):
            if team[person] == old:
                team[person] = team[a]
                turned[person] ^= flip
    return turned
""",
)
