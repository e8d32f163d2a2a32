"""The best exclusive or."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Take the exclusive or of a non-empty block of neighbouring numbers. Return the largest such "
    "value, the number of blocks that have it, and the number of blocks whose value is 0."
)
INPUTS = {"numbers": integers(1, 24, 0, 255)}
OUTPUT = "a list of three integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": []},
    {"numbers": [256]},
    {"numbers": [-1]},
    {"numbers": [True]},
)


def generate(rng: Random, size: int) -> Given:
    """Few bits for small sizes."""
    high = 2 ** min(8, 2 + size // 3) - 1
    return {"numbers": [rng.randint(0, high) for _ in range(rng.randint((size + 1) // 2, size))]}


SOLUTIONS = (
    """\
def solve(numbers):
    best, count, zeros = -1, 0, 0
    for i in range(len(numbers)):
        value = 0
        for j in range(i, len(numbers)):
            value ^= numbers[j]
            if value > best:
                best, count = value, 1
            elif value == best:
                count += 1
            if value == 0:
                zeros += 1
    return [best, count, zeros]
""",
    """\
def solve(numbers):
    prefixes = [0]
    for number in numbers:
        prefixes.append(prefixes[-1] ^ number)
    values = {}
    for j in range(1, len(prefixes)):
        for i in range(j):
            value = prefixes[i] ^ prefixes[j]
            values[value] = values.get(value, 0) + 1
    top = max(values)
    return [top, values[top], values.get(0, 0)]
""",
)
