"""Choose numbers with a given sum."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "The first line holds the number of numbers and the target, the second line the numbers. Print "
    "the places, counted from 0 and in ascending order, of some of the numbers whose sum is the "
    "target; choose as few as possible, any such choice is right. If there is none, print -1. For "
    "the target 0 choose nothing and print an empty line."
)
INPUTS = {"numbers": integers(1, 10, 1, 40), "target": Whole(0, 150)}
LAYOUT = ("#numbers target", "numbers...")
OUTPUT = "one line of integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": [], "target": 1},
    {"numbers": [0], "target": 1},
    {"numbers": [1], "target": 151},
)
MAX_SIZE = 10


def generate(rng: Random, size: int) -> Given:
    """Mostly targets that can be met."""
    numbers = [rng.randint(1, 4 + 2 * size) for _ in range(rng.randint((size + 1) // 2, size))]
    chosen = [number for number in numbers if rng.random() < 0.4]
    return {"numbers": numbers, "target": min(150, sum(chosen) + rng.choice((0, 0, 0, 1)))}


def check(given: Given, output: object) -> bool:
    """The places ascend, add up, and are as few as any."""
    numbers, target = given["numbers"], given["target"]
    fewest = {0: 0}
    for number in numbers:
        for total, used in list(fewest.items()):
            reached = total + number
            fewest[reached] = min(fewest.get(reached, 99), used + 1)
    if not isinstance(output, str) or len(output) > 200:
        return False
    words = output.split()
    if target not in fewest:
        return words == ["-1"]
    if not all(word in "0123456789" and len(word) == 1 for word in words):
        return False
    places = [int(word) for word in words]
    if places != sorted(set(places)) or any(place >= len(numbers) for place in places):
        return False
    return sum(numbers[p] for p in places) == target and len(places) == fewest[target]


SOLUTIONS = (
    """\
n, target = map(int, input().split())
numbers = list(map(int, input().split()))
best = None
for mask in range(1 << n):
    places = [i for i in range(n) if mask >> i & 1]
    if sum(numbers[i] for i in places) == target:
        if best is None or len(places) < len(best):
            best = places
if best is None:
    print(-1)
else:
    print(*best)
""",
    """\
n, target = map(int, input().split())
numbers = [int(word) for word in input().split()]
ways = {0: []}
for i in range(n):
    for total, places in sorted(ways.items(), reverse=True):
        reached = total + numbers[i]
        if reached not in ways or len(places) + 1 < len(ways[reached]):
            ways[reached] = places + [i]
answer = ways.get(target, [-1])
print(" ".join(map(str, answer)))
""",
)
