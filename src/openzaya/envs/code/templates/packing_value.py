"""Pack a bag."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "The first line holds the number of things and the capacity of a bag; then comes one line "
    "`weight value` for each thing. Print the largest total value that fits into the bag and the "
    "smallest total weight with which that value is reached."
)
INPUTS = {"things": Items(Fixed((Whole(1, 20), Whole(0, 30))), 0, 12), "capacity": Whole(0, 60)}
LAYOUT = ("#things capacity", "things*")
OUTPUT = "one line with two integers: value and weight"
REJECTED: tuple[Given, ...] = (
    {"things": [[0, 1]], "capacity": 3},
    {"things": [[1, 31]], "capacity": 3},
    {"things": [], "capacity": -1},
)
MAX_SIZE = 12


def generate(rng: Random, size: int) -> Given:
    """A bag for about half of the things."""
    count = rng.randint(size // 2, size)
    things = [[rng.randint(1, 9), rng.randint(0, 12)] for _ in range(count)]
    return {"things": things, "capacity": rng.randint(0, min(60, 3 * size + 3))}


SOLUTIONS = (
    """\
n, capacity = map(int, input().split())
best = [0] * (capacity + 1)
for _ in range(n):
    weight, value = map(int, input().split())
    for room in range(capacity, weight - 1, -1):
        if best[room - weight] + value > best[room]:
            best[room] = best[room - weight] + value
weight = capacity
while weight > 0 and best[weight - 1] == best[capacity]:
    weight -= 1
print(best[capacity], weight)
""",
    """\
n, capacity = map(int, input().split())
reached = {0: 0}
for _ in range(n):
    weight, value = map(int, input().split())
    longer = dict(reached)
    for total, worth in reached.items():
        if total + weight <= capacity:
            longer[total + weight] = max(longer.get(total + weight, 0), worth + value)
    reached = longer
most = max(reached.values())
print(most, min(total for total, worth in reached.items() if worth == most))
""",
    """\
n, capacity = map(int, input().split())
things = [list(map(int, input().split())) for _ in range(n)]

def pack(index, room):
    if index == n:
        return 0, 0
    best = pack(index + 1, room)
    weight, value = things[index]
    if weight <= room:
        worth, load = pack(index + 1, room - weight)
        best = max(best, (worth + value, load - weight))
    return best

worth, load = pack(0, capacity)
print(worth, -load)
""",
)
