"""Prime factors and divisors."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "Write the number as a product of prime powers. Return the list of [prime, exponent] pairs in "
    "ascending order of the primes, followed by the number of divisors (1 and the number itself "
    "included). For 1 the list holds just the number of divisors."
)
INPUTS = {"number": Whole(1, 100000)}
OUTPUT = "a list of pairs and an integer"
REJECTED: tuple[Given, ...] = (
    {"number": 0},
    {"number": 100001},
    {"number": "12"},
    {"number": [12]},
)


def generate(rng: Random, size: int) -> Given:
    """Products of small primes."""
    number = 1
    for _ in range(rng.randint(1, 1 + size // 2)):
        step = rng.choice((2, 2, 3, 3, 5, 7, 11, 13, 31))
        if number * step <= min(100000, 50 * size * size):
            number *= step
    return {"number": number}


SOLUTIONS = (
    """\
def solve(number):
    pairs = []
    divisors = 1
    prime = 2
    while number > 1:
        exponent = 0
        while number % prime == 0:
            number //= prime
            exponent += 1
        if exponent > 0:
            pairs.append([prime, exponent])
            divisors *= exponent + 1
        prime += 1
        if prime * prime > number and number > prime:
            prime = number
    return pairs + [divisors]
""",
    """\
def solve(number):
    left = number
    found = []
    p = 2
    while p * p <= left:
        if left % p == 0:
            e = 0
            while left % p == 0:
                left = left // p
                e = e + 1
            found.append([p, e])
        p += 1
    if left > 1:
        found.append([left, 1])
    count = 1
    for _, e in found:
        count = count * (e + 1)
    return found + [count]
""",
)
