"""Largest sum of a block of neighbours."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Choose a non-empty block of neighbouring numbers with the largest sum. Return that sum and "
    "the length of the shortest block that has it."
)
INPUTS = {"numbers": integers(1, 30, -50, 50)}
OUTPUT = "a list of two integers: sum and length"
REJECTED: tuple[Given, ...] = (
    {"numbers": []},
    {"numbers": [51]},
    {"numbers": [1.0]},
    {"numbers": [[1]]},
)


def generate(rng: Random, size: int) -> Given:
    """Values of both signs, zeros now and then."""
    count = rng.randint((size + 1) // 2, size)
    return {"numbers": [rng.choice((0, rng.randint(-20, 20))) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(numbers):
    best = None
    for left in range(len(numbers)):
        total = 0
        for right in range(left, len(numbers)):
            total += numbers[right]
            length = right - left + 1
            if best is None or total > best[0] or (total == best[0] and length < best[1]):
                best = [total, length]
    return best
""",
    """\
def solve(numbers):
    total, length = numbers[0], 1
    best, best_length = total, length
    for number in numbers[1:]:
        if total > 0:
            total, length = total + number, length + 1
        else:
            total, length = number, 1
        if (total, -length) > (best, -best_length):
            best, best_length = total, length
    return [best, best_length]
""",
)
