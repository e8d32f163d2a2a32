"""Count the words of a text."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Text

STATEMENT = (
    "The first line holds the number of lines that follow. Words are blocks of the letters a, b "
    "and c, in small or capital form; everything else separates words, and so does the end of a "
    "line. Print the three most frequent words in small letters, each with its count on a line of "
    "its own, more frequent ones first and equal counts in alphabetical order; fewer if there are "
    "fewer. Then print the length of the longest word (0 if there is none)."
)
INPUTS = {"lines": Items(Text(1, 16, "abcABC .-"), 1, 8)}
LAYOUT = ("#lines", "lines*")
OUTPUT = "up to three lines `word count`, then a line with one integer"
REJECTED: tuple[Given, ...] = ({"lines": []}, {"lines": ["d"]}, {"lines": [""]}, {"lines": ["a1"]})
MAX_SIZE = 16


def generate(rng: Random, size: int) -> Given:
    """Short words."""
    lines = []
    for _ in range(rng.randint(1, 1 + min(7, size // 3))):
        line = "".join(rng.choice("aabbcABC  .-") for _ in range(rng.randint(1, min(16, 3 + size))))
        lines.append(line)
    return {"lines": lines}


SOLUTIONS = (
    """\
n = int(input())
counts = {}
longest = 0
for _ in range(n):
    word = ""
    for char in input().lower() + ".":
        if char in "abc":
            word += char
        elif word:
            counts[word] = counts.get(word, 0) + 1
            longest = max(longest, len(word))
            word = ""
for word in sorted(counts, key=lambda w: (-counts[w], w))[:3]:
    print(word, counts[word])
print(longest)
""",
    """\
import re
from collections import Counter

text = "\\n".join(input() for _ in range(int(input())))
words = re.findall("[abc]+", text.lower())
table = sorted((-count, word) for word, count in Counter(words).items())
shown = 0
for count, word in table:
    if shown < 3:
        print(f"{word} {-count}")
        shown += 1
print(max([len(word) for word in words], default=0))
""",
)
