"""A robot that follows orders on a ring-shaped board."""

from random import Random

from openzaya.envs.code.grammar import Given, Text, Whole

STATEMENT = (
    "A robot stands on cell (0, 0) of a square board with `side` cells a side and looks up. F "
    "moves it one cell ahead, L turns it left, R turns it right, J moves it two cells ahead. A "
    "cell is (x, y), x grows to the right and y upwards, and who leaves the board at one edge "
    "comes in at the opposite one. Return x, y, the number of different cells on which it stood "
    "after some order or at the start, and the number of orders after which it stood on (0, 0)."
)
INPUTS = {"orders": Text(0, 30, "FLRJ"), "side": Whole(2, 9)}
OUTPUT = "a list of four integers"
REJECTED: tuple[Given, ...] = (
    {"orders": "B", "side": 5},
    {"orders": "F", "side": 1},
    {"orders": ["F"], "side": 5},
)


def generate(rng: Random, size: int) -> Given:
    """More moves than turns."""
    count = rng.randint(size // 2 + 1, size)
    return {
        "orders": "".join(rng.choice("FFFLRJ") for _ in range(count)),
        "side": rng.randint(2, 6),
    }


SOLUTIONS = (
    """\
def solve(orders, side):
    x = y = 0
    dx, dy = 0, 1
    seen = {(0, 0)}
    home = 0
    for order in orders:
        if order == "L":
            dx, dy = -dy, dx
        elif order == "R":
            dx, dy = dy, -dx
        else:
            steps = 1 if order == "F" else 2
            x = (x + dx * steps) % side
            y = (y + dy * steps) % side
            seen.add((x, y))
        if x == 0 and y == 0:
            home += 1
    return [x, y, len(seen), home]
""",
    """\
def solve(orders, side):
    direction = 0
    place = 0j
    visited = [place]
    for order in orders:
        if order in "LR":
            direction += 1 if order == "L" else 3
        else:
            place += 1j ** (direction % 4 + 1) * (2 if order == "J" else 1)
            place = complex(place.real % side, place.imag % side)
        visited.append(place)
    home = visited[1:].count(0j)
    return [int(place.real), int(place.imag), len(set(visited)), home]
""",
)
