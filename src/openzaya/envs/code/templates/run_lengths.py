"""Run-length coding with a limit."""

from random import Random

from openzaya.envs.code.grammar import Given, Text, Whole

STATEMENT = (
    "Write the text as runs: each run of equal letters becomes its length followed by the letter; "
    "a run of length 1 becomes the letter alone. A run longer than the limit is cut from the left "
    "into pieces of at most that length."
)
INPUTS = {"text": Text(0, 40, "abcd"), "limit": Whole(1, 9)}
OUTPUT = "a string"
REJECTED: tuple[Given, ...] = (
    {"text": "e", "limit": 1},
    {"text": "a", "limit": 0},
    {"text": ["a"], "limit": 1},
)


def generate(rng: Random, size: int) -> Given:
    """Runs of several lengths."""
    text = "".join(rng.choice("abcd") * rng.randint(1, 7) for _ in range(1 + size // 3))
    return {"text": text[: min(size + 2, 40)], "limit": rng.randint(1, 6)}


SOLUTIONS = (
    """\
def solve(text, limit):
    out = ""
    i = 0
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i] and j - i < limit:
            j += 1
        if j - i > 1:
            out += str(j - i)
        out += text[i]
        i = j
    return out
""",
    """\
from itertools import groupby

def solve(text, limit):
    parts = []
    for letter, group in groupby(text):
        left = len(list(group))
        while left > 0:
            piece = min(left, limit)
            parts.append(letter if piece == 1 else f"{piece}{letter}")
            left -= piece
    return "".join(parts)
""",
)
