"""Shift letters by the letters of a key."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "The alphabet is abcdefgh, a being 0 and h being 7. Shift the letters of the text forward by "
    "the letters of the key, one after the other, starting the key anew when it is used up; after "
    "h comes a. A dash stays as it is and uses no letter of the key, but it turns the direction of "
    "all later shifts around."
)
INPUTS = {"text": Text(0, 30, "abcdefgh-"), "key": Text(1, 6, "abcdefgh")}
OUTPUT = "a string"
REJECTED: tuple[Given, ...] = (
    {"text": "a", "key": ""},
    {"text": "z", "key": "a"},
    {"text": "a", "key": "-"},
)


def generate(rng: Random, size: int) -> Given:
    """Some dashes in the text."""
    text = "".join(
        rng.choice("abcdefgh-" if rng.random() < 0.5 else "abcdefgh") for _ in range(size)
    )
    return {"text": text, "key": "".join(rng.choices("abcdefgh", k=rng.randint(1, 4)))}


SOLUTIONS = (
    """\
def solve(text, key):
    letters = "abcdefgh"
    out = ""
    used = 0
    direction = 1
    for char in text:
        if char == "-":
            direction = -direction
            out += char
        else:
            shift = letters.index(key[used % len(key)])
            out += letters[(letters.index(char) + direction * shift) % 8]
            used += 1
    return out
""",
    """\
from itertools import cycle

def solve(text, key):
    shifts = cycle(ord(char) - ord("a") for char in key)
    parts = []
    for number, part in enumerate(text.split("-")):
        sign = -1 if number % 2 == 1 else 1
        parts.append("".join(chr((ord(c) - 97 + sign * next(shifts)) % 8 + 97) for c in part))
    return "-".join(parts)
""",
)
