"""The best profit from buying and selling with a fee."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole, integers

STATEMENT = (
    "prices[i] is the price of a share on day i. You may hold at most one share. On each day you "
    "may buy, sell or do nothing, but not buy and sell on the same day. Every sale costs the fee. "
    "You start without a share and need not end without one. Return the largest profit, counting "
    "an unsold share as nothing."
)
INPUTS = {"prices": integers(0, 24, 1, 99), "fee": Whole(0, 20)}
OUTPUT = "an integer"
REJECTED: tuple[Given, ...] = (
    {"prices": [0], "fee": 1},
    {"prices": [1], "fee": -1},
    {"prices": [1]},
)


def generate(rng: Random, size: int) -> Given:
    """Prices that go up and down."""
    count = rng.randint(size // 2 + 1, size)
    return {"prices": [rng.randint(1, 20 + size) for _ in range(count)], "fee": rng.randint(0, 6)}


SOLUTIONS = (
    """\
def solve(prices, fee):
    free, holding = 0, -1000
    for price in prices:
        sold = holding + price - fee
        bought = free - price
        if sold > free:
            free = sold
        if bought > holding:
            holding = bought
    return free
""",
    """\
def solve(prices, fee):
    best = [0] * (len(prices) + 1)
    for end in range(1, len(prices) + 1):
        best[end] = best[end - 1]
        for start in range(1, end):
            gain = prices[end - 1] - prices[start - 1] - fee
            best[end] = max(best[end], best[start - 1] + gain)
    return best[len(prices)]
""",
)
