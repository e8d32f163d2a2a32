"""Give change from a limited drawer."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "A machine sells tickets. Each line `price paid` is one customer who pays with a single coin "
    "of 1, 2, 5, 10, 20 or 50. The machine keeps the coin in its drawer (empty at first) and gives "
    "change always with the largest coin from the drawer that still fits, the paid coin included. "
    "If it cannot give the change exactly like this, or less than the price is paid, it gives the "
    "coin back and sells nothing. Print one line with yes or no for each customer in order (empty "
    "without customers), then one line with the number of coins of each value 1, 2, 5, 10, 20, 50 "
    "in the drawer."
)
INPUTS = {"customers": Items(Fixed((Whole(1, 50), Whole(1, 50))), 0, 16)}
LAYOUT = ("#customers", "customers*")
OUTPUT = "a line of words, then a line of six integers"
REJECTED: tuple[Given, ...] = (
    {"customers": [[1, 3]]},
    {"customers": [[0, 1]]},
    {"customers": [[1, 100]]},
)
MAX_SIZE = 16


def valid(given: Given) -> bool:
    """Coins have the six values."""
    return all(paid in (1, 2, 5, 10, 20, 50) for _, paid in given["customers"])


def generate(rng: Random, size: int) -> Given:
    """Prices a little below the coin."""
    customers = []
    for _ in range(rng.randint((size + 1) // 2, size)):
        paid = rng.choice((1, 2, 5, 10) if rng.random() < 0.7 else (20, 50))
        customers.append([min(50, max(1, paid - rng.choice((0, 0, 1, 2, 3, 5, -1)))), paid])
    return {"customers": customers}


SOLUTIONS = (
    """\
n = int(input())
values = [1, 2, 5, 10, 20, 50]
drawer = [0] * 6
words = []
for _ in range(n):
    price, paid = map(int, input().split())
    trial = drawer[:]
    trial[values.index(paid)] += 1
    change = paid - price
    for i in range(5, -1, -1):
        while trial[i] > 0 and change >= values[i]:
            trial[i] -= 1
            change -= values[i]
    if change == 0:
        drawer = trial
        words.append("yes")
    else:
        words.append("no")
print(*words)
print(*drawer)
""",
    """\
count = int(input())
coins = []
answers = ""
for _ in range(count):
    price, paid = input().split()
    left = int(paid) - int(price)
    kept = []
    for coin in sorted(coins + [int(paid)], reverse=True):
        if coin <= left:
            left -= coin
        else:
            kept.append(coin)
    if left == 0:
        coins = kept
    answers += "yes " if left == 0 else "no "
print(answers.strip())
print(" ".join(str(coins.count(value)) for value in (1, 2, 5, 10, 20, 50)))
""",
)
