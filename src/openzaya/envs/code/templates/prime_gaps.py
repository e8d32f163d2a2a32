"""Primes in a range and the gap between them."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "Look at the primes from low to high, both included. Return how many there are, and the "
    "largest difference of two neighbouring primes among them with the smaller prime of the first "
    "such pair. With fewer than two primes the difference and the prime are 0. low is at most "
    "high."
)
INPUTS = {"low": Whole(0, 2000), "high": Whole(0, 2000)}
OUTPUT = "a list of three integers: count, difference, prime"
REJECTED: tuple[Given, ...] = (
    {"low": 3, "high": 2},
    {"low": -1, "high": 5},
    {"low": 1},
    {"low": 1.0, "high": 2},
)


def valid(given: Given) -> bool:
    """The range is not upside down."""
    return bool(given["low"] <= given["high"])


def generate(rng: Random, size: int) -> Given:
    """Ranges that widen with the size."""
    low = rng.randint(0, 10 * size * size // 4 + 10)
    return {"low": min(low, 1500), "high": min(min(low, 1500) + rng.randint(0, 5 * size), 2000)}


SOLUTIONS = (
    """\
def solve(low, high):
    count = 0
    last = 0
    gap, start = 0, 0
    for number in range(max(low, 2), high + 1):
        divisor = 2
        while divisor * divisor <= number and number % divisor != 0:
            divisor += 1
        if divisor * divisor > number:
            count += 1
            if last > 0 and number - last > gap:
                gap, start = number - last, last
            last = number
    return [count, gap, start]
""",
    """\
def solve(low, high):
    is_prime = [False, False] + [True] * high
    for i in range(2, high + 1):
        if is_prime[i]:
            for multiple in range(2 * i, high + 1, i):
                is_prime[multiple] = False
    primes = [n for n in range(low, high + 1) if is_prime[n]]
    gaps = [(b - a, -a) for a, b in zip(primes, primes[1:])]
    gap, start = max(gaps, default=(0, 0))
    return [len(primes), gap, -start]
""",
)
