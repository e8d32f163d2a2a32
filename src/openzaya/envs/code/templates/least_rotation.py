"""The smallest rotation of a text."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "A rotation moves some letters from the front of the text to its end. Return the "
    "alphabetically smallest rotation, the fewest letters that must be moved for it, and the "
    "number of different rotations the text has."
)
INPUTS = {"text": Text(1, 24, "abc")}
OUTPUT = "a list: rotation, moved letters, number of different rotations"
REJECTED: tuple[Given, ...] = ({"text": ""}, {"text": "abcd"}, {"text": "a" * 25}, {"text": None})


def generate(rng: Random, size: int) -> Given:
    """Often a repeated word."""
    word = "".join(rng.choices("abc", k=rng.randint(1, max(1, size // 2))))
    return {"text": (word * 6)[: len(word) * rng.randint(1, max(1, size // len(word)))][:24]}


SOLUTIONS = (
    """\
def solve(text):
    n = len(text)
    best, moved = text, 0
    seen = []
    for i in range(n):
        turned = text[i:] + text[:i]
        if turned < best:
            best, moved = turned, i
        if turned not in seen:
            seen.append(turned)
    return [best, moved, len(seen)]
""",
    """\
def solve(text):
    n = len(text)
    period = (text + text).index(text, 1)
    i, j = 0, 1
    while j < n:
        k = 0
        while k < n and text[(i + k) % n] == text[(j + k) % n]:
            k += 1
        if k < n and text[(j + k) % n] < text[(i + k) % n]:
            i = j
        j += 1
    return [text[i:] + text[:i], i, period]
""",
)
