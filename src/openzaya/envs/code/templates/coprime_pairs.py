"""Common divisors of pairs."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Over all pairs of places i < j: return how many pairs of numbers have no common divisor above "
    "1, and the largest greatest common divisor of any pair. Fewer than two numbers give [0, 0]."
)
INPUTS = {"numbers": integers(0, 20, 1, 500)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"numbers": [0]},
    {"numbers": [501]},
    {"numbers": 6},
    {"numbers": [6, [2]]},
)
MAX_SIZE = 20


def generate(rng: Random, size: int) -> Given:
    """Numbers with small factors."""
    count = rng.randint(size // 2 + 1, size)
    return {
        "numbers": [rng.choice((1, 2, 3, 4, 6)) * rng.randint(1, 9 + size) for _ in range(count)]
    }


SOLUTIONS = (
    """\
def solve(numbers):
    coprime = 0
    largest = 0
    for i in range(len(numbers)):
        for j in range(i):
            a, b = numbers[i], numbers[j]
            while b:
                a, b = b, a % b
            if a == 1:
                coprime += 1
            if a > largest:
                largest = a
    return [coprime, largest]
""",
    """\
from itertools import combinations
from math import gcd

def solve(numbers):
    divisors = [gcd(a, b) for a, b in combinations(numbers, 2)]
    return [divisors.count(1), max(divisors, default=0)]
""",
    """\
def solve(numbers):
    count = best = 0
    for place, first in enumerate(numbers):
        for second in numbers[place + 1:]:
            divisor = min(first, second)
            while first % divisor != 0 or second % divisor != 0:
                divisor -= 1
            best = max(best, divisor)
            count += 1 if divisor == 1 else 0
    return [count, best]
""",
)
