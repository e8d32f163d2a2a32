"""Wrap words into lines."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Text, Whole

STATEMENT = (
    "Words are written from left to right, one space between two words on a line. A word that no "
    "longer fits into the width starts a new line. Return the lengths of the lines in order, "
    "without trailing spaces."
)
INPUTS = {"words": Items(Text(1, 6, "xyz"), 0, 24), "width": Whole(6, 20)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"words": ["x"], "width": 5},
    {"words": [""], "width": 9},
    {"words": ["a"], "width": 9},
)


def generate(rng: Random, size: int) -> Given:
    """Words of 1 to 6 letters."""
    count = rng.randint(size // 2, size)
    words = ["".join(rng.choices("xyz", k=rng.randint(1, 6))) for _ in range(count)]
    return {"words": words, "width": rng.randint(6, 6 + min(14, size))}


SOLUTIONS = (
    """\
def solve(words, width):
    lines = []
    length = -1
    for word in words:
        if length >= 0 and length + 1 + len(word) > width:
            lines.append(length)
            length = -1
        length += 1 + len(word)
    if length >= 0:
        lines.append(length)
    return lines
""",
    """\
def solve(words, width):
    lines = []
    for word in words:
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return [len(line) for line in lines]
""",
)
