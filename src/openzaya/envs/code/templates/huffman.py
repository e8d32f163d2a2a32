"""Lengths of a Huffman code."""

from random import Random

from openzaya.envs.code.grammar import Given, integers

STATEMENT = (
    "Join piles again and again: take the two smallest piles and put them together, which costs "
    "the size of the new pile, until one pile is left. Return the total cost and the size of the "
    "smaller pile in the last joining (0 if nothing is joined)."
)
INPUTS = {"piles": integers(1, 24, 1, 99)}
OUTPUT = "a list of two integers"
REJECTED: tuple[Given, ...] = ({"piles": []}, {"piles": [0]}, {"piles": [100]}, {"piles": ["3"]})


def generate(rng: Random, size: int) -> Given:
    """Piles of uneven size."""
    count = rng.randint((size + 1) // 2, size)
    return {"piles": [rng.randint(1, rng.choice((4, 30))) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(piles):
    left = sorted(piles)
    cost = 0
    smaller = 0
    while len(left) > 1:
        smaller = left[0]
        joined = left[0] + left[1]
        cost += joined
        left = sorted(left[2:] + [joined])
    return [cost, smaller]
""",
    """\
import heapq

def solve(piles):
    heap = piles[:]
    heapq.heapify(heap)
    cost, last = 0, 0
    for _ in range(len(piles) - 1):
        last = heapq.heappop(heap)
        joined = heapq.heapreplace(heap, heap[0] + last) + last
        cost += joined
    return [cost, last]
""",
)
