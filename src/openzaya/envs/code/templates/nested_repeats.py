"""Unfold nested repeats such as 2[ab3[c]]."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "A code is a sequence of letters and of repeats d[code], where d is one digit from 1 to 3 and "
    "the code in brackets may itself hold repeats, at most 3 deep. Unfold it: a repeat stands for "
    "its code written d times."
)
INPUTS = {"code": Text(0, 40, "abc123[]")}
OUTPUT = "a string"
REJECTED: tuple[Given, ...] = (
    {"code": "2[a"},
    {"code": "a]"},
    {"code": "[a]"},
    {"code": "12[a]"},
    {"code": "2"},
)


def valid(given: Given) -> bool:
    """Digits stand before an opening bracket and nowhere else; brackets match, at most 3 deep."""
    depth = 0
    before = ""
    for char in given["code"]:
        if (char == "[") != (before != "" and before in "123"):
            return False
        depth += (char == "[") - (char == "]")
        if not 0 <= depth <= 3:
            return False
        before = char
    return depth == 0 and before not in ("1", "2", "3")


def generate(rng: Random, size: int) -> Given:
    """Random codes, cut to what fits."""
    while True:
        code = _code(rng, 3, 2 + size // 5)
        if len(code) <= min(40, 4 + 2 * size):
            return {"code": code}


def _code(rng: Random, depth: int, items: int) -> str:
    parts = []
    for _ in range(rng.randint(1, items)):
        if depth and rng.random() < 0.4:
            parts.append(f"{rng.randint(1, 3)}[{_code(rng, depth - 1, 2)}]")
        else:
            parts.append(rng.choice("abc"))
    return "".join(parts)


SOLUTIONS = (
    """\
def solve(code):
    stack = []
    current = ""
    times = 1
    for char in code:
        if char in "123":
            times = int(char)
        elif char == "[":
            stack.append((current, times))
            current = ""
        elif char == "]":
            before, count = stack.pop()
            current = before + current * count
        else:
            current += char
    return current
""",
    """\
def solve(code):
    def unfold(i):
        out = []
        while i < len(code) and code[i] != "]":
            if code[i] in "123":
                inner, end = unfold(i + 2)
                out.append(inner * int(code[i]))
                i = end + 1
            else:
                out.append(code[i])
                i += 1
        return "".join(out), i
    return unfold(0)[0]
""",
    """\
import re

def solve(code):
    while "[" in code:
        code = re.sub(r"([123])\\[([abc]*)\\]", lambda m: int(m[1]) * m[2], code)
    return code
""",
)
