"""Fewest brackets to add."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "Brackets may be added anywhere in the text so that it becomes balanced. Return the fewest "
    "opening and the fewest closing brackets to add, and the deepest nesting that the text reaches "
    "when every closing bracket without a partner is left out."
)
INPUTS = {"text": Text(0, 40, "()")}
OUTPUT = "a list of three integers: opening, closing, depth"
REJECTED: tuple[Given, ...] = ({"text": "(a)"}, {"text": ["("]}, {"text": "[]"}, {"text": "(" * 41})


def generate(rng: Random, size: int) -> Given:
    """Random brackets, any bias."""
    bias = rng.choice(["(())", "(()", "())"])
    return {"text": "".join(rng.choice(bias) for _ in range(rng.randint(size // 2, size)))}


SOLUTIONS = (
    """\
def solve(text):
    depth = deepest = 0
    missing = 0
    for char in text:
        if char == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif depth > 0:
            depth -= 1
        else:
            missing += 1
    return [missing, depth, deepest]
""",
    """\
def solve(text):
    stack = []
    deepest = 0
    for i, char in enumerate(text):
        if char == ")" and stack and text[stack[-1]] == "(":
            stack.pop()
        else:
            stack.append(i)
        opened = [j for j in stack if text[j] == "("]
        deepest = max(deepest, len(opened))
    closing = sum(1 for j in stack if text[j] == ")")
    return [closing, len(stack) - closing, deepest]
""",
)
