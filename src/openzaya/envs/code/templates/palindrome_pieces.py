"""Cut a text into the fewest palindromes."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "Cut the text into pieces so that each piece reads the same from both ends. Return the fewest "
    "pieces needed, and the length of the longest palindrome that is a block of the text. The "
    "empty text needs 0 pieces and has length 0."
)
INPUTS = {"text": Text(0, 24, "abc")}
OUTPUT = "a list of two integers: pieces and longest palindrome"
REJECTED: tuple[Given, ...] = ({"text": "abd"}, {"text": 7}, {"text": "a" * 25}, {"text": "A"})


def generate(rng: Random, size: int) -> Given:
    """Texts with palindromes inside."""
    text = ""
    while len(text) < size // 2 + 1:
        half = "".join(rng.choice("abc") for _ in range(rng.randint(1, 3)))
        text += half + half[::-1][rng.randint(0, 1) :]
    return {"text": text[: min(size, 24)]}


SOLUTIONS = (
    """\
def solve(text):
    n = len(text)
    fewest = [0] * (n + 1)
    longest = 0
    for end in range(1, n + 1):
        fewest[end] = end
        for start in range(end):
            piece = text[start:end]
            if piece == piece[::-1]:
                fewest[end] = min(fewest[end], fewest[start] + 1)
                longest = max(longest, end - start)
    return [fewest[n], longest]
""",
    """\
def solve(text):
    n = len(text)
    fewest = list(range(n + 1))
    longest = 0
    for center in range(n):
        for width in (0, 1):
            left, right = center, center + width
            while left >= 0 and right < n and text[left] == text[right]:
                if fewest[left] + 1 < fewest[right + 1]:
                    fewest[right + 1] = fewest[left] + 1
                if right - left + 1 > longest:
                    longest = right - left + 1
                left -= 1
                right += 1
    return [fewest[n], longest]
""",
)
