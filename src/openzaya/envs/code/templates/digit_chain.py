"""Repeat a digit rule until a number comes back."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "One step replaces a number by the sum of its digits, each raised to the power. Start with the "
    "number and go on until a number appears that was there before. Return how many steps that "
    "took, and the largest number met, the first one included."
)
INPUTS = {"number": Whole(0, 99999), "power": Whole(1, 3)}
OUTPUT = "a list of two integers: steps and largest"
REJECTED: tuple[Given, ...] = (
    {"number": -1, "power": 2},
    {"number": 5, "power": 4},
    {"number": "5", "power": 2},
)


def generate(rng: Random, size: int) -> Given:
    """Longer numbers for larger sizes."""
    return {"number": rng.randrange(10 ** (1 + min(4, size // 4))), "power": rng.randint(1, 3)}


SOLUTIONS = (
    """\
def solve(number, power):
    seen = {number}
    steps = 0
    largest = number
    while True:
        total = 0
        while number > 0:
            total += (number % 10) ** power
            number //= 10
        number = total
        steps += 1
        largest = max(largest, number)
        if number in seen:
            return [steps, largest]
        seen.add(number)
""",
    """\
def solve(number, power):
    chain = [number]
    while chain[-1] not in chain[:-1]:
        chain.append(sum(int(digit) ** power for digit in str(chain[-1])))
    return [len(chain) - 1, max(chain)]
""",
)
