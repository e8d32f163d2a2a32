"""Words that fit a pattern."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Text

STATEMENT = (
    "In the pattern ? stands for exactly one letter and * for any number of letters, also none. "
    "Return the places of the words that fit the whole pattern, counted from 0, and after them the "
    "total length of these words."
)
INPUTS = {"pattern": Text(0, 8, "ab?*"), "words": Items(Text(0, 8, "ab"), 0, 20)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"pattern": "c", "words": []},
    {"pattern": "a", "words": ["c"]},
    {"pattern": "a"},
)


def generate(rng: Random, size: int) -> Given:
    """Patterns that some words fit."""
    longest = 2 + min(6, size // 4)
    words = ["".join(rng.choices("ab", k=rng.randint(0, longest))) for _ in range(min(20, size))]
    pattern = [rng.choice((c, c, "?", "*")) for c in rng.choice(words)]
    pattern.insert(rng.randint(0, len(pattern)), rng.choice(("*", "")))
    return {"pattern": "".join(pattern)[:8], "words": words}


SOLUTIONS = (
    """\
def solve(pattern, words):
    def fits(p, w):
        if p == "":
            return w == ""
        if p[0] == "*":
            return fits(p[1:], w) or (w != "" and fits(p, w[1:]))
        return w != "" and p[0] in ("?", w[0]) and fits(p[1:], w[1:])
    places = [i for i in range(len(words)) if fits(pattern, words[i])]
    return places + [sum(len(words[i]) for i in places)]
""",
    """\
def solve(pattern, words):
    result = []
    total = 0
    for index, word in enumerate(words):
        reach = {0}
        for char in pattern:
            if char == "*":
                reach = set(range(min(reach), len(word) + 1)) if reach else set()
            else:
                reach = {i + 1 for i in reach if i < len(word) and char in ("?", word[i])}
        if len(word) in reach:
            result.append(index)
            total += len(word)
    result.append(total)
    return result
""",
    """\
import re

def solve(pattern, words):
    expression = re.compile(pattern.replace("?", ".").replace("*", ".*"))
    hits = []
    length = 0
    for place, word in enumerate(words):
        if expression.fullmatch(word) is not None:
            hits.append(place)
            length = length + len(word)
    return hits + [length]
""",
)
