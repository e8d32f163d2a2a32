"""Random programs for pure tracing: well-typed, and bounded by construction.

A program works on two integers and a list. Loops run over a constant range of at most MAX_LOOP
rounds or over the given list, are nested at most MAX_DEPTH deep, and no statement lengthens the
list that is looped over; every integer that is assigned is reduced modulo a constant. So every
program ends soon, on every input, and may run in this process.

Difficulty d: number of statements and depth of loops; there is no upper end but the prompt's.
"""

from collections import Counter
from random import Random
from typing import cast

from openzaya.core.errors import EnvError
from openzaya.core.records import Verdict
from openzaya.envs.base import Problem, check_difficulty
from openzaya.envs.code import code_io
from openzaya.envs.code.grammar import Given
from openzaya.envs.code.template import run_trusted
from openzaya.envs.code.values import Json, canonical

MAX_LOOP = 5
MAX_DEPTH = 3
MAX_STATEMENTS = 40
MODULI = (7, 10, 13, 50, 97, 100)
NUM_DRAWS = 32
MIN_ENTROPY_BITS = 3.0
MAX_TRIES = 300


class Trace:
    """Output prediction for random programs. It needs no executor."""

    name = "trace"
    family = "code"

    def make(self, rng: Random, difficulty: int) -> Problem:
        """Draw a program until its outputs vary enough, then an input."""
        check_difficulty(difficulty)
        for _ in range(MAX_TRIES):
            source = program(rng, difficulty)
            counts = outputs(source, rng)
            if code_io.entropy_bits(counts) < MIN_ENTROPY_BITS:
                continue
            given = arguments(rng)
            output = run_trusted(source, given)
            if code_io.can_ask(given, output, counts):
                return code_io.output_problem(source, given, output)
        raise EnvError(f"no telling program in {MAX_TRIES} draws at difficulty {difficulty}")

    def score(self, problem: Problem, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Right when the last JSON object holds exactly the output, types included."""
        return code_io.score_output(problem, reply, started_in_think=started_in_think)


def arguments(rng: Random) -> Given:
    """Draw an input for a random program."""
    return {
        "a": rng.randint(-20, 20),
        "b": rng.randint(-20, 20),
        "items": [rng.randint(-9, 9) for _ in range(rng.randint(2, 6))],
    }


def outputs(source: str, rng: Random) -> Counter[str]:
    """Count the outputs over random inputs."""
    return Counter(
        canonical(cast(Json, run_trusted(source, arguments(rng)))) for _ in range(NUM_DRAWS)
    )


def program(rng: Random, difficulty: int) -> str:
    """Return the source of a random program `solve(a, b, items)`."""
    writer = Writer(rng, depth_limit=min(MAX_DEPTH, (difficulty + 2) // 3))
    lines = ["def solve(a, b, items):", "    out = []", f"    c = {rng.randint(1, 9)}"]
    for _ in range(min(MAX_STATEMENTS, 3 + difficulty)):
        lines += writer.statement(0)
    return "\n".join([*lines, "    return [a, b, c, out]"]) + "\n"


class Writer:
    """Writes statements; knows which integer names exist where it is."""

    def __init__(self, rng: Random, depth_limit: int) -> None:
        self.rng = rng
        self.depth_limit = depth_limit
        self.indices: list[str] = []
        """Loop variables in scope: read, never assigned."""

    def statement(self, depth: int) -> list[str]:
        """Return the lines of one statement at a depth of loops."""
        pad = "    " * (depth + 1)
        roll = self.rng.random()
        if roll < 0.3 and depth < self.depth_limit:
            return self.loop(depth, pad)
        if roll < 0.45:
            return self.branch(pad)
        if roll < 0.6:
            return [f"{pad}out.append({self.value()} % {self.rng.choice(MODULI)})"]
        if roll < 0.7:
            return [f"{pad}a, b = b, {self.value()} % {self.rng.choice(MODULI)}"]
        return [f"{pad}{self.assignment()}"]

    def loop(self, depth: int, pad: str) -> list[str]:
        """Return a loop over a constant range or over the given list."""
        name = "ijk"[depth]
        if self.rng.random() < 0.5:
            head = f"{pad}for {name} in range({self.rng.randint(2, MAX_LOOP)}):"
        else:
            head = f"{pad}for {name} in items:"
        self.indices.append(name)
        body = [line for _ in range(self.rng.randint(1, 3)) for line in self.statement(depth + 1)]
        self.indices.pop()
        return [head, *body]

    def branch(self, pad: str) -> list[str]:
        """Return an if statement with simple branches."""
        compare = self.rng.choice(("<", ">", "==", "!=", "<=", ">="))
        left = self.rng.choice((self.value(), f"({self.value()}) % {self.rng.randint(2, 5)}"))
        lines = [f"{pad}if {left} {compare} {self.value()}:", f"{pad}    {self.assignment()}"]
        if self.rng.random() < 0.6:
            lines += [f"{pad}else:", f"{pad}    {self.assignment()}"]
        return lines

    def assignment(self) -> str:
        """Return an assignment whose value stays small."""
        name = self.rng.choice("abc")
        value = f"{self.value()} {self.rng.choice('+-*')} {self.value()}"
        return f"{name} = ({value}) % {self.rng.choice(MODULI)}"

    def value(self) -> str:
        """Return an integer expression without side effects."""
        choices = [*"abc", *self.indices, *self.indices, str(self.rng.randint(0, 9))]
        choices += ["len(out)", "max(items)", f"items[{self.rng.choice('abc')} % len(items)]"]
        first: str = self.rng.choice(choices)
        if self.rng.random() < 0.4:
            return f"({first} {self.rng.choice('+-*')} {self.rng.choice(choices)})"
        if self.rng.random() < 0.1:
            return f"abs({first} - {self.rng.choice(choices)})"
        return first
