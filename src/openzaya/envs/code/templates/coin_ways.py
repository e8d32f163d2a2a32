"""Ways to pay with coins."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "Each coin value may be used any number of times. Return the number of ways to pay the amount "
    "exactly (the order of coins is no matter), and the fewest coins for it, or -1 if it cannot "
    "be paid. All coin values are different."
)
INPUTS = {"coins": integers(1, 6, 1, 30), "amount": Whole(0, 80)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = (
    {"coins": [1, 1], "amount": 3},
    {"coins": [], "amount": 3},
    {"coins": [0], "amount": 1},
)


def valid(given: Given) -> bool:
    """All coin values differ."""
    return len(set(given["coins"])) == len(given["coins"])


def generate(rng: Random, size: int) -> Given:
    """Small coins."""
    count = rng.randint(1, 2 + min(3, size // 4))
    coins = rng.sample(range(1, 8 + min(size, 20)), count)
    return {"coins": coins, "amount": rng.randint(size // 2, min(80, 4 * size))}


SOLUTIONS = (
    """\
def solve(coins, amount):
    ways = [1] + [0] * amount
    fewest = [0] + [None] * amount
    for coin in coins:
        for total in range(coin, amount + 1):
            ways[total] += ways[total - coin]
            rest = fewest[total - coin]
            if rest is not None and (fewest[total] is None or rest + 1 < fewest[total]):
                fewest[total] = rest + 1
    return [ways[amount], -1 if fewest[amount] is None else fewest[amount]]
""",
    """\
from functools import cache

def solve(coins, amount):
    @cache
    def pay(left, index):
        if left == 0:
            return 1, 0
        if left < 0 or index == len(coins):
            return 0, 999
        used, few = pay(left - coins[index], index)
        skipped, other = pay(left, index + 1)
        return used + skipped, min(few + 1, other)
    ways, fewest = pay(amount, 0)
    return [ways, fewest if ways > 0 else -1]
""",
)
