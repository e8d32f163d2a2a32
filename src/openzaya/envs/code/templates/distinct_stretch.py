"""The longest stretch with few different letters."""

from random import Random

from openzaya.envs.code.grammar import Given, Text, Whole

STATEMENT = (
    "Find the longest block of the text in which no letter occurs more than `most` times. Return "
    "its length and the first place where a block of this length starts. The empty text gives "
    "[0, 0]."
)
INPUTS = {"text": Text(0, 40, "abcde"), "most": Whole(1, 4)}
OUTPUT = "a list of two integers: length and start"
REJECTED: tuple[Given, ...] = (
    {"text": "f", "most": 1},
    {"text": "a", "most": 5},
    {"text": "a", "most": None},
)


def generate(rng: Random, size: int) -> Given:
    """Uneven letters."""
    letters = rng.choices("abcde", k=rng.randint(size // 2, size))
    return {"text": "".join(letters), "most": rng.randint(1, 2 + (size > 10))}


SOLUTIONS = (
    """\
def solve(text, most):
    best, best_start = 0, 0
    for start in range(len(text)):
        counts = {}
        end = start
        while end < len(text) and counts.get(text[end], 0) < most:
            counts[text[end]] = counts.get(text[end], 0) + 1
            end += 1
        if end - start > best:
            best, best_start = end - start, start
    return [best, best_start]
""",
    """\
def solve(text, most):
    counts = dict.fromkeys("abcde", 0)
    start = 0
    best = [0, 0]
    for end, letter in enumerate(text):
        counts[letter] += 1
        while counts[letter] > most:
            counts[text[start]] -= 1
            start += 1
        length = end - start + 1
        if length > best[0]:
            best = [length, start]
    return best
""",
)
