"""Powers modulo a number."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "Look at base**0, base**1, base**2, ... modulo the modulus. Return base**exponent modulo the "
    "modulus, the index of the first power that occurred before, and the index of its first "
    "occurrence."
)
INPUTS = {"base": Whole(0, 999), "exponent": Whole(0, 10**9), "modulus": Whole(1, 200)}
OUTPUT = "a list of three integers"
REJECTED: tuple[Given, ...] = (
    {"base": 2, "exponent": -1, "modulus": 5},
    {"base": 2, "exponent": 1, "modulus": 0},
    {"base": 1000, "exponent": 1, "modulus": 5},
)


def generate(rng: Random, size: int) -> Given:
    """Exponents and moduli that grow."""
    high = 4 + 8 * size
    return {
        "base": rng.randint(0, high),
        "exponent": rng.randint(0, size**3),
        "modulus": rng.randint(1, min(200, high)),
    }


SOLUTIONS = (
    """\
def solve(base, exponent, modulus):
    seen = {}
    power = 1 % modulus
    index = 0
    while power not in seen:
        seen[power] = index
        power = power * base % modulus
        index += 1
    result = 1 % modulus
    factor = base % modulus
    while exponent > 0:
        if exponent % 2 == 1:
            result = result * factor % modulus
        factor = factor * factor % modulus
        exponent //= 2
    return [result, index, seen[power]]
""",
    """\
def solve(base, exponent, modulus):
    powers = [1 % modulus]
    while True:
        following = powers[-1] * base % modulus
        if following in powers:
            break
        powers.append(following)
    start = powers.index(following)
    place = exponent
    if place >= len(powers):
        place = start + (exponent - start) % (len(powers) - start)
    return [powers[place], len(powers), start]
""",
)
