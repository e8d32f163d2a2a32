"""Count days in an invented calendar."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "A calendar has months of 31 and 30 days in turn, the first with 31, 12 months a year. Every "
    "fourth year (4, 8, ...) has no last day of month 12, except every 20th year (20, 40, ...), "
    "which has it. The days of a week are numbered 0 to 6, and day 1 of month 1 of year 1 is day "
    "0. Return the number of the day within its year (from 1) and its day of the week, or [0, -1] "
    "if the day does not exist."
)
INPUTS = {"year": Whole(1, 400), "month": Whole(1, 12), "day": Whole(1, 31)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"year": 0, "month": 1, "day": 1},
    {"year": 1, "month": 13, "day": 1},
    {"year": 1, "month": 1, "day": 32},
    {"year": 1, "month": 1},
)


def generate(rng: Random, size: int) -> Given:
    """Ends of months and of leap cycles more often than by chance."""
    year = rng.choice((rng.randint(1, 10 * size), 4 * rng.randint(1, size), 20 * rng.randint(1, 5)))
    return {
        "year": year,
        "month": rng.choice((12, rng.randint(1, 12))),
        "day": rng.choice((30, 31, rng.randint(1, 31), rng.randint(1, 31))),
    }


SOLUTIONS = (
    """\
def solve(year, month, day):
    def short(y):
        return y % 4 == 0 and y % 20 != 0
    def length(y, m):
        if m == 12 and short(y):
            return 29
        return 31 if m % 2 == 1 else 30
    if day > length(year, month):
        return [0, -1]
    number = day
    for m in range(1, month):
        number += length(year, m)
    total = number - 1
    for y in range(1, year):
        for m in range(1, 13):
            total += length(y, m)
    return [number, total % 7]
""",
    """\
def solve(year, month, day):
    last = 30 + month % 2
    if month == 12 and year % 4 == 0 and year % 20 > 0:
        last -= 1
    if day > last:
        return [0, -1]
    number = (month - 1) * 30 + month // 2 + day
    past = year - 1
    weekday = (past * 366 - past // 4 + past // 20 + number - 1) % 7
    return [number, weekday]
""",
)
