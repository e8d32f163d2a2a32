"""Digits in another base."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "Write the absolute value of the number in the given base with the digits 0 to 9 and a to f. "
    "Return that text (with a leading minus for negative numbers) and the text of the number whose "
    "digits stand in reverse order, without leading zeros (0 for zero)."
)
INPUTS = {"number": Whole(-99999, 99999), "base": Whole(2, 16)}
OUTPUT = "a list of two strings"
REJECTED: tuple[Given, ...] = (
    {"number": 1, "base": 1},
    {"number": 100000, "base": 2},
    {"number": "7", "base": 2},
)


def generate(rng: Random, size: int) -> Given:
    """Sometimes multiples of the base."""
    base = rng.randint(2, 16)
    high = min(9999, 3 * size * size)
    return {"number": rng.randint(-high // 2, high) * rng.choice((1, 1, base)), "base": base}


SOLUTIONS = (
    """\
def solve(number, base):
    digits = "0123456789abcdef"
    left = abs(number)
    text = ""
    while left > 0:
        text = digits[left % base] + text
        left //= base
    sign = "-" if number < 0 else ""
    turned = text[::-1]
    while turned.startswith("0"):
        turned = turned[1:]
    if text == "":
        return ["0", "0"]
    return [sign + text, sign + turned]
""",
    """\
def solve(number, base):
    places = []
    left = number if number >= 0 else -number
    while True:
        left, digit = divmod(left, base)
        places.append(digit)
        if left == 0:
            break
    def write(values):
        return "".join(chr(48 + v) if v < 10 else chr(87 + v) for v in values)
    forward = write(reversed(places))
    backward = write(places).lstrip("0") or "0"
    if number < 0:
        return ["-" + forward, "-" + backward]
    return [forward, backward]
""",
)
