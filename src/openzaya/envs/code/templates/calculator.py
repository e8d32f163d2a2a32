"""Evaluate an expression with an unusual precedence."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "Evaluate an expression of digits, +, *, and brackets, in which + binds more strongly than *, "
    "so that 2*3+4 is 14. Print the value. The expression has at least two characters and no "
    "number of several digits."
)
INPUTS = {"text": Text(1, 30, "123456789+*()")}
LAYOUT = ("text",)
OUTPUT = "one line with one integer"
REJECTED: tuple[Given, ...] = (
    {"text": "1+"},
    {"text": "()"},
    {"text": "12"},
    {"text": "(1"},
    {"text": "0+1"},
    {"text": "1)"},
    {"text": "2(3)"},
)


def valid(given: Given) -> bool:
    """Operands and operators take turns and brackets match."""
    text = given["text"]
    if len(text) == 1:
        return False
    depth = 0
    wants_operand = True
    for char in text:
        if wants_operand:
            if char in "+*)":
                return False
            depth += char == "("
            wants_operand = char == "("
        else:
            if char not in "+*)":
                return False
            depth -= char == ")"
            wants_operand = char != ")"
        if depth < 0:
            return False
    return depth == 0 and not wants_operand


def generate(rng: Random, size: int) -> Given:
    """Random trees."""
    while True:
        text = _text(rng, max(2, min(12, (size + 2) // 2)))
        if len(text) <= 30:
            return {"text": text}


def _text(rng: Random, operands: int) -> str:
    if operands == 1:
        return str(rng.randint(1, 9))
    left = rng.randint(1, operands - 1)
    text = f"{_text(rng, left)}{rng.choice('+*')}{_text(rng, operands - left)}"
    return f"({text})" if rng.random() < 0.3 else text


SOLUTIONS = (
    """\
text = input().strip()
place = 0

def product():
    global place
    value = total()
    while place < len(text) and text[place] == "*":
        place += 1
        value *= total()
    return value

def total():
    global place
    value = atom()
    while place < len(text) and text[place] == "+":
        place += 1
        value += atom()
    return value

def atom():
    global place
    place += 1
    if text[place - 1] == "(":
        value = product()
        place += 1
        return value
    return int(text[place - 1])

print(product())
""",
    """\
text = "(" + input().strip() + ")"
values, operators = [], []
for char in text:
    if char in "123456789":
        values.append(int(char))
    elif char == "(":
        operators.append(char)
    else:
        while operators[-1] == "+" or (operators[-1] == "*" and char != "+"):
            b, a = values.pop(), values.pop()
            values.append(a + b if operators.pop() == "+" else a * b)
        if char == ")":
            operators.pop()
        else:
            operators.append(char)
print(values[0])
""",
)
