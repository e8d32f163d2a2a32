"""Hits of a cache that forgets what was used longest ago."""

from random import Random

from openzaya.envs.code.grammar import Given, Text, Whole

STATEMENT = (
    "A cache holds at most `room` letters. Letters are asked for one after the other. If a letter "
    "is in the cache it is a hit; else it is put in, and if there is no room, the letter whose "
    "last use (hit or putting in) is longest ago leaves. Return the number of hits, the letters in "
    "the cache from the longest ago to the most recent use, and how often the letter that left "
    "most often left (0 if none left)."
)
INPUTS = {"letters": Text(0, 40, "abcdefg"), "room": Whole(1, 6)}
OUTPUT = "a list: hits, letters as a string, number"
REJECTED: tuple[Given, ...] = (
    {"letters": "h", "room": 2},
    {"letters": "a", "room": 0},
    {"letters": "a"},
)


def generate(rng: Random, size: int) -> Given:
    """More letters than room."""
    count = rng.randint(size // 2 + 1, size)
    letters = "abcdefg"[: rng.randint(3, 7)]
    return {
        "letters": "".join(rng.choices(letters, k=count)),
        "room": rng.randint(1, len(letters) - 1),
    }


SOLUTIONS = (
    """\
def solve(letters, room):
    cache = []
    hits = 0
    left = {}
    for letter in letters:
        if letter in cache:
            hits += 1
            cache.remove(letter)
        elif len(cache) == room:
            gone = cache.pop(0)
            left[gone] = left.get(gone, 0) + 1
        cache.append(letter)
    return [hits, "".join(cache), max(left.values(), default=0)]
""",
    """\
def solve(letters, room):
    used = {}
    hits = 0
    exits = [0] * 7
    for time, letter in enumerate(letters):
        if letter in used:
            hits += 1
        elif len(used) >= room:
            oldest = min(used, key=lambda key: used[key])
            del used[oldest]
            exits[ord(oldest) - ord("a")] += 1
        used[letter] = time
    order = sorted(used, key=lambda key: used[key])
    return [hits, "".join(order), max(exits)]
""",
)
