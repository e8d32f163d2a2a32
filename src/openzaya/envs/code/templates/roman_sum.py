"""Add Roman numerals."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Whole

STATEMENT = (
    "Add the numbers and write the sum as a Roman numeral (I 1, V 5, X 10, L 50, C 100, D 500, "
    "M 1000; 4 is IV, 9 is IX, 40 is XL, 90 is XC, 400 is CD, 900 is CM). A sum of 0 is written "
    "N, and above 3999 the thousands are written first as a decimal number and a colon, the rest "
    "(if any) as a numeral after it: 4010 is 4:X, 5000 is 5:."
)
INPUTS = {"numbers": Items(Whole(0, 2000), 0, 12)}
OUTPUT = "a string"
REJECTED: tuple[Given, ...] = ({"numbers": [-1]}, {"numbers": [2001]}, {"numbers": ["X"]})
MAX_SIZE = 12


def generate(rng: Random, size: int) -> Given:
    """Sums of several magnitudes."""
    high = rng.choice((9, 60, 400, 900, 2000))
    return {"numbers": [rng.randint(0, high) for _ in range(rng.randint(size // 2, size))]}


SOLUTIONS = (
    """\
def solve(numbers):
    total = sum(numbers)
    if total == 0:
        return "N"
    out = ""
    if total > 3999:
        out = str(total // 1000) + ":"
        total %= 1000
    table = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
             (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]
    for value, name in table:
        while total >= value:
            out += name
            total -= value
    return out
""",
    """\
def solve(numbers):
    total = sum(numbers)
    if not total:
        return "N"
    prefix = ""
    if total >= 4000:
        prefix = f"{total // 1000}:"
        total = total % 1000
    out = ""
    for power, one, five, ten in ((3, "M", "", ""), (2, "C", "D", "M"),
                                  (1, "X", "L", "C"), (0, "I", "V", "X")):
        digit = total // 10 ** power % 10
        if digit == 9:
            out += one + ten
        elif digit == 4:
            out += one + five
        elif digit >= 5 and five:
            out += five + one * (digit - 5)
        else:
            out += one * digit
    return prefix + out
""",
)
