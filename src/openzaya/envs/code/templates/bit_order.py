"""Sort numbers by their bits."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Sort the numbers by how many 1s their binary form has, fewest first; numbers with equally "
    "many by the length of their longest block of neighbouring 1s, shortest first; then by value, "
    "largest first."
)
INPUTS = {"numbers": integers(0, 24, 0, 1023)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": [-1]},
    {"numbers": [1024]},
    {"numbers": ["101"]},
    {"bits": [1]},
)


def generate(rng: Random, size: int) -> Given:
    """Up to ten bits."""
    high = 2 ** min(10, 3 + size // 2) - 1
    return {"numbers": [rng.randint(0, high) for _ in range(rng.randint(size // 2 + 1, size))]}


SOLUTIONS = (
    """\
def solve(numbers):
    def key(number):
        ones = longest = run = 0
        left = number
        while left > 0:
            if left & 1:
                ones += 1
                run += 1
                longest = max(longest, run)
            else:
                run = 0
            left >>= 1
        return ones, longest, -number
    return sorted(numbers, key=key)
""",
    """\
def solve(numbers):
    keyed = []
    for number in numbers:
        text = bin(number)[2:]
        blocks = text.split("0")
        keyed.append([text.count("1"), len(max(blocks)), -number])
    for i in range(len(keyed)):
        for j in range(i, 0, -1):
            if keyed[j] < keyed[j - 1]:
                keyed[j], keyed[j - 1] = keyed[j - 1], keyed[j]
    return [-entry[2] for entry in keyed]
""",
)
