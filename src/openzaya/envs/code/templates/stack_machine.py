"""Run a program of a small stack machine."""

from random import Random

from openzaya.envs.code.grammar import Given, Items, Text

STATEMENT = (
    "Run the commands on a stack that is empty at first. A digit pushes itself. + and * take the "
    "two top numbers and push their sum or product; - pushes the second from the top minus the "
    "top. D doubles: it pushes a copy of the top. S swaps the two top numbers. P removes the top. "
    "A command that misses its numbers does nothing and counts as a miss. All results are taken "
    "modulo 1000 (so -1 becomes 999). Return the stack from bottom to top, then the misses."
)
INPUTS = {"commands": Items(Text(1, 1, "0123456789+-*DSP"), 0, 30)}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"commands": ["12"]},
    {"commands": ["x"]},
    {"commands": [1]},
    {"commands": [""]},
)


def generate(rng: Random, size: int) -> Given:
    """More digits at the beginning."""
    count = rng.randint(size // 2 + 1, size)
    commands = [rng.choice("123456789" if rng.random() < 0.5 else "+-*DSP0") for _ in range(count)]
    return {"commands": commands}


SOLUTIONS = (
    """\
def solve(commands):
    stack = []
    misses = 0
    for command in commands:
        if command in "0123456789":
            stack.append(int(command))
        elif command == "D" and len(stack) >= 1:
            stack.append(stack[-1])
        elif command == "P" and len(stack) >= 1:
            stack.pop()
        elif command in "+-*S" and len(stack) >= 2:
            top = stack.pop()
            below = stack.pop()
            if command == "+":
                stack.append((below + top) % 1000)
            elif command == "-":
                stack.append((below - top) % 1000)
            elif command == "*":
                stack.append(below * top % 1000)
            else:
                stack += [top, below]
        else:
            misses += 1
    return stack + [misses]
""",
    """\
def solve(commands):
    needs = {"D": 1, "P": 1, "+": 2, "-": 2, "*": 2, "S": 2}
    effects = {
        "D": lambda a: [a, a],
        "P": lambda a: [],
        "+": lambda a, b: [(a + b) % 1000],
        "-": lambda a, b: [(a - b) % 1000],
        "*": lambda a, b: [a * b % 1000],
        "S": lambda a, b: [b, a],
    }
    stack = []
    misses = 0
    for command in commands:
        count = needs.get(command, 0)
        if count == 0:
            stack.append(ord(command) - 48)
        elif len(stack) < count:
            misses += 1
        else:
            stack[-count:] = effects[command](*stack[-count:])
    stack.append(misses)
    return stack
""",
)
