"""Groups of words with the same letters."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Text

STATEMENT = (
    "Two words belong together when one is a rearrangement of the other. Return for each group of "
    "at least two words its first word in the list and its size, larger groups first, equal sizes "
    "by the position of the first word. A word that occurs twice counts twice."
)
INPUTS = {"words": Items(Text(1, 5, "abc"), 0, 24)}
OUTPUT = "a list of [word, size] pairs"
REJECTED: tuple[Given, ...] = (
    {"words": [""]},
    {"words": ["abd"]},
    {"words": "abc"},
    {"words": ["aaaaaa"]},
)


def generate(rng: Random, size: int) -> Given:
    """Short words over three letters."""
    count = rng.randint(size // 2, size)
    longest = 2 + (size > 8)
    return {"words": ["".join(rng.choices("abc", k=rng.randint(2, longest))) for _ in range(count)]}


SOLUTIONS = (
    """\
def solve(words):
    groups = {}
    for word in words:
        groups.setdefault("".join(sorted(word)), []).append(word)
    big = [group for group in groups.values() if len(group) > 1]
    big.sort(key=lambda group: -len(group))
    return [[group[0], len(group)] for group in big]
""",
    """\
def solve(words):
    letters = [[word.count(c) for c in "abc"] for word in words]
    found = []
    for i in range(len(words)):
        if letters.index(letters[i]) != i:
            continue
        size = letters.count(letters[i])
        if size >= 2:
            place = len(found)
            while place > 0 and found[place - 1][1] < size:
                place -= 1
            found.insert(place, [words[i], size])
    return found
""",
)
