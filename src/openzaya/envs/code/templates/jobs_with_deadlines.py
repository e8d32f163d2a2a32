"""Jobs of one day with deadlines."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Every job takes one day; a job [deadline, pay] earns its pay if it is done on day deadline or "
    "earlier. Days count from 1, one job a day. Return the largest total pay and the largest "
    "number of jobs that can be done in time."
)
INPUTS = {"jobs": Items(Fixed((Whole(1, 12), Whole(1, 60))), 0, 14)}
OUTPUT = "a list of two integers: pay and jobs"
REJECTED: tuple[Given, ...] = (
    {"jobs": [[0, 5]]},
    {"jobs": [[13, 5]]},
    {"jobs": [[1, 0]]},
    {"jobs": [[1, 2, 3]]},
)
MAX_SIZE = 14


def generate(rng: Random, size: int) -> Given:
    """Tight deadlines."""
    count = rng.randint(size // 2, size)
    last = max(1, min(12, size // 2 + 1))
    return {"jobs": [[rng.randint(1, last), rng.randint(1, 30)] for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(jobs):
    days = {}
    for deadline, pay in sorted(jobs, key=lambda job: -job[1]):
        day = deadline
        while day > 0 and day in days:
            day -= 1
        if day > 0:
            days[day] = pay
    return [sum(days.values()), len(days)]
""",
    """\
import heapq

def solve(jobs):
    kept = []
    for deadline, pay in sorted(jobs):
        heapq.heappush(kept, pay)
        if len(kept) > deadline:
            heapq.heappop(kept)
    return [sum(kept), len(kept)]
""",
    """\
def solve(jobs):
    total = 0
    free = 0
    count = 0
    waiting = []
    for day in range(12, 0, -1):
        waiting += [pay for deadline, pay in jobs if deadline == day]
        if waiting:
            best = max(waiting)
            waiting.remove(best)
            total += best
            count += 1
    return [total, count]
""",
)
