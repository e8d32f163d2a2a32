"""Judge programs: right, wrong or INFRA, with one reason for the model and one for us.

Every test runs in a fresh box, so nothing of one test can answer another. The box never holds an
expected output; outputs are compared here, or by the problem's checker in a box of its own, which
the candidate's program never enters. The first test, in order, that is not right decides: if the
program failed it, the verdict is wrong; if we failed, it is INFRA.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from openzaya.core.errors import DataError
from openzaya.core.records import Verdict, infra, right, wrong
from openzaya.core.seeding import stream
from openzaya.envs.code.grading import Grade, Grader
from openzaya.envs.code.problem import Failure, Problem, Program, Test
from openzaya.envs.code.runner import Runner
from openzaya.envs.code.tables import has_answer_table
from openzaya.envs.code.values import Json, canonical

SHOWN_CHARS = 200
"""Longest piece of a visible test that a public reason quotes."""
OUR_FAILURE = "the judge could not run; that says nothing about the program"


class Flag(StrEnum):
    """What else was seen; a flag never makes a verdict better."""

    FAILS_HELD_OUT = "fails_held_out"
    """Passes every visible test and gives wrong answers, or crashes, on a held-out one."""
    ANSWER_TABLE = "answer_table"
    """Its text holds the visible inputs, or hashes of them."""
    FLAKY = "flaky"
    """Runs on the same input disagree."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How thoroughly to judge."""

    max_private_tests: int | None = None
    """Judge by a random choice of so many held-out tests; None: by all."""
    seed: int = 0
    """Of the choices of tests; together with the problem's id."""
    wave: int = 8
    """Held-out tests that start together; after a wave with a failure nothing more runs."""
    flake_runs: int = 3
    """A program that passed runs so often in all on a few tests; 1: never again."""
    flake_tests: int = 2
    """How many tests those are."""

    def __post_init__(self) -> None:
        for name, least in (("wave", 1), ("flake_runs", 1), ("flake_tests", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}; choose at least {least}")
        if self.max_private_tests is not None and self.max_private_tests < 1:
            raise DataError("max_private_tests must be at least 1, or None for all")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeVerdict:
    """What the judge says of one program."""

    verdict: Verdict
    """Its reason is public: it quotes visible tests only."""
    private_reason: str
    """For people who may see the held-out tests."""
    num_passed: int
    num_run: int
    failure: Failure | None = None
    """How it failed the test that decided."""
    flags: tuple[Flag, ...] = ()

    @property
    def suspected_hack(self) -> bool:
        """True when the program looks made for the visible tests."""
        return Flag.FAILS_HELD_OUT in self.flags or Flag.ANSWER_TABLE in self.flags


class Judge:
    """Judges programs by running them. Safe between threads, as far as the executor is."""

    def __init__(self, runner: Runner, policy: Policy | None = None) -> None:
        self.grader = Grader(runner)
        self.policy = policy or Policy()

    def judge(self, problem: Problem, program: Program) -> CodeVerdict:
        """Judge one program by the problem's tests.

        Raises DataError for a problem without tests, RequestError for a language that the problem
        cannot take, SandboxError where no sandbox works.
        """
        tests = self.choose_tests(problem)
        if not tests:
            raise DataError(f"problem {problem.id!r} has no tests; it cannot judge anything")
        grades: list[Grade] = []
        for wave in self.waves(problem, tests):
            grades += self.grader.run_tests(problem, program, wave)
            if not all(grade.right for grade in grades):
                break
        else:
            return self.check_again(problem, program, tests)
        return self.failed(problem, program, tests, grades)

    def choose_tests(self, problem: Problem) -> list[Test]:
        """Return the tests to judge by, visible ones first."""
        held_out = list(problem.private_tests)
        limit = self.policy.max_private_tests
        if limit is not None and limit < len(held_out):
            picked = sorted(self.rng(problem, "tests").sample(range(len(held_out)), limit))
            held_out = [held_out[i] for i in picked]
        return [*problem.public_tests, *held_out]

    def waves(self, problem: Problem, tests: Sequence[Test]) -> list[Sequence[Test]]:
        """Split the tests into the visible ones and then waves of held-out ones."""
        start, step = len(problem.public_tests), self.policy.wave
        held_out = [tests[i : i + step] for i in range(start, len(tests), step)]
        return [tests[:start], *held_out] if start else held_out

    def check_again(self, problem: Problem, program: Program, tests: Sequence[Test]) -> CodeVerdict:
        """Run a program that passed a few times more: it must give right answers each time.

        A further run that takes too long is let pass: the first was within the limits, and how
        busy the machine is must not decide.
        """
        picks = self.rng(problem, "flakes").sample(
            range(len(tests)), min(self.policy.flake_tests, len(tests))
        )
        chosen = [tests[i] for i in picks]
        grades = [
            grade
            for _ in range(self.policy.flake_runs - 1)
            for grade in self.grader.run_tests(problem, program, chosen, fresh=True)
        ]
        passed = f"all {len(tests)} tests passed"
        verdict, private, failure = right(passed), passed, None
        flags = self.flags_of(problem, program)
        bad = [grade for grade in grades if not grade.right and grade.failure is not Failure.TIME]
        if bad and bad[0].infra:
            verdict, private = infra(OUR_FAILURE), f"a further run: {bad[0].infra}"
        elif bad:
            verdict, failure = wrong("runs on the same input disagree"), bad[0].failure
            private = f"passed, but on a further run: {failure} {bad[0].detail}"
            flags = (*flags, Flag.FLAKY)
        return CodeVerdict(
            verdict=verdict,
            private_reason=private,
            num_passed=len(tests),
            num_run=len(tests),
            failure=failure,
            flags=flags,
        )

    def failed(
        self, problem: Problem, program: Program, tests: Sequence[Test], grades: Sequence[Grade]
    ) -> CodeVerdict:
        """Return the verdict of a program that did not pass."""
        index = next(i for i, grade in enumerate(grades) if not grade.right)
        grade, test = grades[index], tests[index]
        visible = index < len(problem.public_tests)
        flags = self.flags_of(problem, program)
        name = f"visible test {index + 1}" if visible else "a held-out test"
        private = (
            f"test {index + 1} of {len(tests)} ({name}): {grade.infra or grade.failure} "
            f"{grade.detail}; input {shown(test.input)}, expected {shown(test.output)}"
        )
        num_passed = sum(each.right for each in grades)
        if grade.infra:
            verdict = infra(OUR_FAILURE)
        else:
            quoted = f" on input {shown(test.input)}" if visible else ""
            score = num_passed / (len(tests) + 1)
            verdict = wrong(f"{name} failed: {grade.failure}{quoted}", score)
            hacked = grade.failure in (Failure.WRONG_ANSWER, Failure.CRASH, Failure.NO_VALUE)
            if hacked and not visible and problem.public_tests:
                flags = (*flags, Flag.FAILS_HELD_OUT)
        return CodeVerdict(
            verdict=verdict,
            private_reason=private,
            num_passed=num_passed,
            num_run=len(grades),
            failure=grade.failure,
            flags=flags,
        )

    def flags_of(self, problem: Problem, program: Program) -> tuple[Flag, ...]:
        """Return the flags that the program's text earns."""
        return (Flag.ANSWER_TABLE,) if has_answer_table(problem, program) else ()

    def rng(self, problem: Problem, purpose: str) -> Random:
        """Return the stream of choices for a problem."""
        return stream(self.policy.seed, "judge", purpose, problem.id)


def shown(value: Json) -> str:
    """Return a value for a message, shortened."""
    text = repr(value) if isinstance(value, str) else canonical(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
