"""How far it is to the next greater number, on a ring."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "The numbers stand on a ring: after the last comes the first. For each place return how many "
    "steps forward the nearest strictly greater number is, or 0 if there is none."
)
INPUTS = {"numbers": integers(1, 30, -99, 99)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = ({"numbers": []}, {"numbers": [1000]}, {"numbers": [1, "2"]})


def generate(rng: Random, size: int) -> Given:
    """Values with repeats."""
    count = rng.randint((size + 1) // 2, size)
    return {"numbers": [rng.randint(0, size) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(numbers):
    n = len(numbers)
    result = []
    for i in range(n):
        steps = 0
        for step in range(1, n):
            if numbers[(i + step) % n] > numbers[i]:
                steps = step
                break
        result.append(steps)
    return result
""",
    """\
def solve(numbers):
    n = len(numbers)
    result = [0] * n
    waiting = []
    for i in range(2 * n):
        while waiting and numbers[waiting[-1] % n] < numbers[i % n]:
            place = waiting.pop()
            if place < n:
                result[place] = i - place
        waiting.append(i)
    return result
""",
)
