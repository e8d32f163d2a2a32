"""A template: a small problem written whole, from which any number of tasks are generated.

One file in `templates/` is one template; nothing is registered. A file holds

- its docstring: the title
- STATEMENT, INPUTS (a grammar), OUTPUT (words for the result)
- `generate(rng, size)`: a legal input; larger sizes give larger inputs
- SOLUTIONS: at least two programs in different styles, as source text
- REJECTED: inputs that look legal and are not
- optional `valid(given)`: what the grammar cannot say; it may rely on the grammar
- optional `check(given, output)`: where several outputs are right; it may get any JSON value
- optional LAYOUT: the problem is about stdin and stdout instead of a function `solve`
- optional MAX_SIZE: the largest useful size, 24 if absent

Solutions are our own text and bounded by construction on legal inputs. They are pure, say the same
each time, and those of a stdin problem use `input` and `print` alone. They therefore may run in
this process; nothing else may.
"""

import ast
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from types import CodeType

from openzaya.core.errors import EnvError
from openzaya.envs.code import layout
from openzaya.envs.code.grammar import Given, Kind, accepts

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One template as its file gives it."""

    name: str
    statement: str
    inputs: Mapping[str, Kind]
    output: str
    solutions: tuple[str, ...]
    rejected: tuple[Given, ...]
    generate: Callable[[Random, int], Given]
    valid: Callable[[Given], bool]
    check: Callable[[Given, object], bool] | None
    layout: tuple[str, ...]
    """Empty: the problem is a function."""
    max_size: int

    @property
    def mode(self) -> str:
        """Return "function" or "stdin"."""
        return "stdin" if self.layout else "function"

    def draw(self, rng: Random, size: int) -> Given:
        """Return a generated input; the size is clipped to what the template can use."""
        return self.generate(rng, min(max(size, 1), self.max_size))

    def accepts(self, given: object) -> bool:
        """Say whether a value from anywhere is a legal input."""
        if not accepts(self.inputs, given):
            return False
        assert isinstance(given, dict)
        return self.valid(given)

    def answer(self, given: Given, solution: int = 0) -> object:
        """Run one of the solutions on a legal input, in this process."""
        return run_trusted(self.solutions[solution], self.argument(given))

    def argument(self, given: Given) -> Given | str:
        """Return what a program gets: the arguments themselves, or the text of its stdin."""
        return layout.write(self.layout, given) if self.layout else given

    def read_argument(self, argument: object) -> Given | None:
        """Return the legal input that an argument from anywhere stands for, else None."""
        if self.layout:
            if not isinstance(argument, str):
                return None
            argument = layout.read(self.layout, argument)
        if not self.accepts(argument):
            return None
        assert isinstance(argument, dict)
        return argument

    def is_right(self, given: Given, output: object, expected: object) -> bool:
        """Compare an output with the trusted one, or ask the checker where answers vary."""
        if self.check is not None:
            return self.check(given, output)
        return same(output, expected)


def names() -> list[str]:
    """Return the names of all templates, in alphabetical order, without importing any."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


@cache
def get(name: str) -> Template:
    """Return the template called `name`. Raises EnvError if there is none."""
    if name not in names():
        raise EnvError(f"there is no code template {name!r}; known: {', '.join(names())}")
    module = import_module(f"openzaya.envs.code.templates.{name}")
    return Template(
        name=name,
        statement=module.STATEMENT,
        inputs=module.INPUTS,
        output=module.OUTPUT,
        solutions=module.SOLUTIONS,
        rejected=module.REJECTED,
        generate=module.generate,
        valid=getattr(module, "valid", lambda _given: True),
        check=getattr(module, "check", None),
        layout=getattr(module, "LAYOUT", ()),
        max_size=getattr(module, "MAX_SIZE", 24),
    )


@cache
def ranked() -> tuple[str, ...]:
    """Return the names of all templates from the smallest program to the largest.

    The measure is the number of syntax nodes of the shortest solution, each weighted with one more
    for every loop around it.
    """
    return tuple(sorted(names(), key=lambda name: (min(map(weight, get(name).solutions)), name)))


def weight(source: str) -> int:
    """Return the size of a program: its syntax nodes, counted once more for each loop around."""
    return _weight(ast.parse(source), 1)


def _weight(node: ast.AST, depth: int) -> int:
    inner = depth + isinstance(node, ast.For | ast.While | ast.comprehension)
    return depth + sum(_weight(child, inner) for child in ast.iter_child_nodes(node))


@cache
def _compiled(source: str) -> CodeType:
    return compile(source, "<solution>", "exec")


def run_trusted(source: str, argument: Given | str) -> object:
    """Run a program of our own here and return its output as plain JSON values.

    `argument` is a dict for a program that defines `solve`, a str for one that reads stdin.
    """
    if isinstance(argument, dict):
        namespace: dict[str, object] = {}
        exec(_compiled(source), namespace)  # noqa: S102 - our own text, never a model's
        solve = namespace["solve"]
        assert callable(solve)
        return plain(solve(**copy.deepcopy(argument)))
    lines = iter(argument.splitlines())
    printed: list[str] = []

    def write(*values: object, sep: str = " ", end: str = "\n") -> None:
        printed.append(sep.join(map(str, values)) + end)

    namespace = {"input": lambda: next(lines), "print": write, "__name__": "__main__"}
    exec(_compiled(source), namespace)  # noqa: S102 - as above
    return "".join(printed)


def plain(value: object) -> object:
    """Return a value as JSON knows it: tuples become lists."""
    return json.loads(json.dumps(value))


def same(output: object, expected: object) -> bool:
    """Compare two JSON values by type and content; texts of programs line by line.

    True is not 1. Floats agree when they are equal rounded to six places. Spaces at the ends of
    lines and empty lines at the end of a text do not matter.
    """
    if isinstance(output, float) and isinstance(expected, float):
        return round(output, 6) == round(expected, 6)
    if type(output) is not type(expected):
        return False
    if isinstance(output, list) and isinstance(expected, list):
        return len(output) == len(expected) and all(map(same, output, expected))
    if isinstance(output, dict) and isinstance(expected, dict):
        return output.keys() == expected.keys() and all(
            same(output[k], expected[k]) for k in output
        )
    if isinstance(output, str) and isinstance(expected, str):
        return _lines(output) == _lines(expected)
    return output == expected


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
