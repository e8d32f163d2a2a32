"""The schema of a programming problem, whatever its source (JSON: problem_json.py).

A problem of mode STDIN asks for a program: a test's input and output are texts. A problem of mode
FUNCTION asks for the function `entry`: a test's input is a list (positional arguments) or a dict
(keyword arguments) of type-exact JSON values, its output one such value.

Helper programs of a problem (checker, validator, generator) are `Program`s like the candidates and
run in the sandbox like them, each in a box of its own:
- validator: `validate(input) -> bool`, called like the candidate in FUNCTION mode and with the text
  in STDIN mode; or, without an entry, a program that reads the text and exits 0 if it is valid
- generator: `generate(seed: int, size: int) -> input`
- checker: `check(input, output, expected) -> bool`; it alone sees the candidate's output and the
  expected one together
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from openzaya.core.errors import DataError
from openzaya.envs.code.comparators import TEXTS, VALUES, Comparator
from openzaya.envs.code.values import Json, check_value, is_encodable
from openzaya.sandbox.executor import Limits


class Mode(StrEnum):
    """How a candidate gets its input."""

    STDIN = "stdin"
    FUNCTION = "function"


class Failure(StrEnum):
    """How a program fails a test."""

    WRONG_ANSWER = "wrong_answer"
    CRASH = "crash"
    TIME = "time"
    MEMORY = "memory"
    OUTPUT = "output"
    """It printed more than the limit allows."""
    COMPILE = "compile"
    POLICY = "policy"
    """It tried what the sandbox forbids."""
    NO_VALUE = "no_value"
    """It ended without returning a value (sys.exit, os._exit), or with more than one."""
    BAD_VALUE = "bad_value"
    """It returned something that is no type-exact JSON value."""
    UNKNOWN = "unknown"
    """Only in data sets: rejected, the source does not say how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """The text of a program, or of a function in it."""

    source: str
    language: str = "python"
    """A language of the sandbox: "python" or "cpp"."""
    entry: str = ""
    """Function to call, or "Class.method" on `Class()`; empty: it reads stdin, writes stdout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One input with its expected output."""

    __test__ = False  # pytest would take the class for a test

    input: Json
    output: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A program that is known to be wrong, and how."""

    program: Program
    failure: Failure = Failure.UNKNOWN
    killer: Test | None = None
    """A test that it fails, with the right output; None when none is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a problem is from."""

    source: str
    """Data set or generator, and the record's name in it."""
    license: str
    """SPDX identifier, or "unknown"."""
    url: str = ""


TEST_LIMITS = Limits(cpu_s=4.0)
"""What one test may use where a source sets no limits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One problem. Raises DataError when its tests do not fit its mode."""

    id: str
    statement: str
    mode: Mode
    entry: str = ""
    """FUNCTION mode: what the candidate must define, "name" or "Class.method"."""
    io_spec: str = ""
    """The form of inputs and outputs, for the prompt."""
    starter: str = ""
    """Code that the candidate is given to complete."""
    prelude: str = ""
    """FUNCTION mode: code that runs before the candidate's, in its module: usual imports."""
    public_tests: tuple[Test, ...] = ()
    """Shown in the prompt."""
    private_tests: tuple[Test, ...] = ()
    """Held out: neither prompt nor public reason ever shows one."""
    accepted: tuple[Program, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    comparator: Comparator | None = None
    """None: LINES for texts, VALUE for values."""
    checker: Program | None = None
    """Decides instead of the comparator where a problem has several right outputs."""
    validator: Program | None = None
    generator: Program | None = None
    limits: Limits = TEST_LIMITS
    """Of one test."""
    provenance: Provenance
    tags: tuple[str, ...] = ()
    difficulty: float | None = None
    """On the source's own scale."""

    def __post_init__(self) -> None:
        if (self.mode is Mode.FUNCTION) != bool(self.entry):
            raise DataError(
                f"problem {self.id!r} has mode {self.mode} and entry {self.entry!r}; a function "
                "problem names its entry, a stdin problem has none"
            )
        if self.prelude and self.mode is Mode.STDIN:
            raise DataError(
                f"problem {self.id!r} has a prelude, but a program that reads stdin runs as it "
                "is; put the code into the starter"
            )
        if self.rule.kind.is_for_values != (self.mode is Mode.FUNCTION):
            raise DataError(
                f"problem {self.id!r} has mode {self.mode}, which comparator "
                f"{self.rule.kind} does not fit"
            )
        for name in ("checker", "generator"):
            program: Program | None = getattr(self, name)
            if program is not None and not program.entry:
                raise DataError(
                    f"problem {self.id!r}: its {name} has no entry; name the function to call"
                )
        for test in self.tests():
            self.check_input(test.input)
            self.check_output(test.output)

    @property
    def rule(self) -> Comparator:
        """The comparator, the mode's default filled in."""
        if self.comparator is not None:
            return self.comparator
        return VALUES if self.mode is Mode.FUNCTION else TEXTS

    def tests(self) -> Iterator[Test]:
        """Yield all tests, public ones first."""
        yield from self.public_tests
        yield from self.private_tests

    def check_input(self, value: object) -> Json:
        """Return `value` if it is an input by its type; raise DataError if not."""
        wanted = (str,) if self.mode is Mode.STDIN else (list, dict)
        if type(value) not in wanted:
            raise DataError(
                f"problem {self.id!r}: an input is a {type(value).__name__}, but in mode "
                f"{self.mode} it must be {' or '.join(kind.__name__ for kind in wanted)}"
            )
        if isinstance(value, str) and not is_encodable(value):
            raise DataError(f"problem {self.id!r}: an input holds a lone surrogate; repair it")
        return check_value(value)

    def check_output(self, value: object) -> Json:
        """Return `value` if it is an output by its type; raise DataError if not."""
        if self.mode is Mode.STDIN and type(value) is not str:
            raise DataError(
                f"problem {self.id!r}: an output is a {type(value).__name__}, but in mode "
                "stdin it must be str"
            )
        return check_value(value)

    def candidate(self, source: str, language: str = "python") -> Program:
        """Return a candidate's text as the program to judge."""
        return Program(source=source, language=language, entry=self.entry)
