"""Customers at several counters."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "The first line holds the number of customers and of counters. Then one line for each "
    "customer, in the order of arrival: the minutes since the customer before arrived (since "
    "minute 0 for the first) and the minutes that serving takes. A customer goes to the counter "
    "that is free earliest, of several the one with the smallest number (from 0), and is served "
    "there as soon as both are ready. Print for each customer the minutes waited, then on a "
    "second line the minute at which the last customer is done (0 without customers)."
)
INPUTS = {"customers": Items(Fixed((Whole(0, 20), Whole(1, 20))), 0, 16), "counters": Whole(1, 4)}
LAYOUT = ("#customers counters", "customers*")
OUTPUT = "a line with the waiting times, then a line with one integer"
REJECTED: tuple[Given, ...] = (
    {"customers": [[0, 0]], "counters": 1},
    {"customers": [[21, 1]], "counters": 1},
    {"customers": [], "counters": 0},
)
MAX_SIZE = 16


def generate(rng: Random, size: int) -> Given:
    """Busy counters."""
    count = rng.randint(size // 2, size)
    customers = [[rng.randint(0, 4), rng.randint(1, 9)] for _ in range(count)]
    return {"customers": customers, "counters": rng.randint(1, 1 + min(3, size // 3))}


SOLUTIONS = (
    """\
n, counters = map(int, input().split())
free = [0] * counters
now = 0
waits = []
for _ in range(n):
    gap, work = map(int, input().split())
    now += gap
    chosen = 0
    for i in range(counters):
        if free[i] < free[chosen]:
            chosen = i
    start = max(now, free[chosen])
    waits.append(start - now)
    free[chosen] = start + work
print(*waits)
print(max(free))
""",
    """\
import heapq

n, counters = map(int, input().split())
heap = [0] * counters
time = 0
last = 0
line = ""
for i in range(n):
    gap, work = [int(word) for word in input().split()]
    time += gap
    ready = heapq.heappop(heap)
    begin = ready if ready > time else time
    line += ("" if i == 0 else " ") + str(begin - time)
    last = max(last, begin + work)
    heapq.heappush(heap, begin + work)
print(line)
print(last)
""",
)
