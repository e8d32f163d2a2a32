"""Grade runs test by test: comparator or checker, and the problem's own helper programs.

A helper program (checker, validator, generator) runs in a box of its own, never in a candidate's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from openzaya.core.errors import DataError, SandboxError
from openzaya.envs.code.outcomes import Outcome
from openzaya.envs.code.problem import Failure, Mode, Problem, Program, Test
from openzaya.envs.code.runner import Isolation, Runner
from openzaya.envs.code.values import Json, canonical
from openzaya.sandbox.executor import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """What one test says of one program."""

    right: bool
    failure: Failure | None = None
    infra: str = ""
    """Not empty: our own failure."""
    detail: str = ""
    """Private."""


class Grader:
    """Runs programs on tests, and a problem's helpers on what they need."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def run_tests(
        self, problem: Problem, program: Program, tests: Sequence[Test], *, fresh: bool = False
    ) -> list[Grade]:
        """Run a program on tests and grade what comes back; no stop at failures."""
        outcomes = self.runner.run(
            program,
            [test.input for test in tests],
            limits=with_room(problem.limits, tests),
            prelude=problem.prelude,
            fresh=fresh,
        )
        return self.grade(problem, tests, outcomes)

    def grade(
        self, problem: Problem, tests: Sequence[Test], outcomes: Sequence[Outcome]
    ) -> list[Grade]:
        """Compare outcomes with the expected outputs: by the comparator, or by the checker."""
        grades = [grade_run(outcome) for outcome in outcomes]
        values = [index for index, outcome in enumerate(outcomes) if outcome.ok]
        if problem.checker is None:
            verdicts = [
                grade_value(problem.rule.accepts(outcomes[i].value, tests[i].output))
                for i in values
            ]
        else:
            verdicts = self.check(
                problem, [[tests[i].input, outcomes[i].value, tests[i].output] for i in values]
            )
        for index, verdict in zip(values, verdicts, strict=True):
            grades[index] = verdict
        return grades

    def check(self, problem: Problem, calls: Sequence[list[Json]]) -> list[Grade]:
        """Ask the problem's checker about (input, output, expected) triples.

        A checker that fails on an output, but accepts the expected one, was broken by the output:
        wrong. One that fails on both is our failure.
        """
        grades = []
        for call, outcome in zip(calls, self.helper(problem, "checker", calls), strict=True):
            if outcome.ok and type(outcome.value) is bool:
                grades.append(grade_value(outcome.value))
                continue
            control = self.helper(problem, "checker", [[call[0], call[2], call[2]]])[0]
            if not outcome.infra and control.ok and control.value is True:
                detail = f"the checker cannot read it: {outcome.detail}"
                grades.append(Grade(right=False, failure=Failure.WRONG_ANSWER, detail=detail))
            else:
                why = outcome.infra or control.infra or outcome.detail or "it answered no bool"
                grades.append(Grade(right=False, infra=f"the checker failed: {why}"))
        return grades

    def are_valid(self, problem: Problem, inputs: Sequence[Json]) -> list[bool]:
        """Ask the problem's validator; one that crashes, or is too slow, on an input refuses it.

        Raises DataError for a problem without validator, SandboxError when the sandbox failed.
        """
        if problem.validator is None:
            raise DataError(f"problem {problem.id!r} has no validator")
        calls = inputs
        if problem.validator.entry and problem.mode is Mode.STDIN:
            calls = [[text] for text in inputs]
        outcomes = self.helper(problem, "validator", calls)
        raise_infra(outcomes, "the validator")
        by_exit = not problem.validator.entry
        return [outcome.ok and (by_exit or outcome.value is True) for outcome in outcomes]

    def generate(self, problem: Problem, seeds: Sequence[int], size: int) -> list[Json]:
        """Make one input for every seed, of about that size.

        Raises DataError when the generator is missing, fails, or makes no input of the problem's
        mode; SandboxError when the sandbox failed.
        """
        if problem.generator is None:
            raise DataError(f"problem {problem.id!r} has no generator")
        outcomes = self.helper(problem, "generator", [[seed, size] for seed in seeds])
        raise_infra(outcomes, "the generator")
        for seed, outcome in zip(seeds, outcomes, strict=True):
            if not outcome.ok:
                raise DataError(
                    f"the generator of {problem.id!r} failed for seed {seed}, size {size}: "
                    f"{outcome.failure} {outcome.detail}"
                )
        return [problem.check_input(outcome.value) for outcome in outcomes]

    def helper(self, problem: Problem, name: str, calls: Sequence[Json]) -> list[Outcome]:
        """Run one of the problem's own programs, in a box apart from every candidate's."""
        program: Program = getattr(problem, name)
        share = program.language == "python"
        return self.runner.run(
            program,
            calls,
            limits=problem.limits,
            isolation=Isolation.FORK if share else Isolation.BOX,
        )


def with_room(limits: Limits, tests: Sequence[Test]) -> Limits:
    """Return limits under which the longest expected output of the tests fits twice over.

    No program could be right where an expected output is longer than the output limit.
    """
    texts = (
        test.output if isinstance(test.output, str) else canonical(test.output) for test in tests
    )
    longest = max((len(text.encode("utf-8", "surrogatepass")) for text in texts), default=0)
    if 2 * longest <= limits.output_bytes:
        return limits
    return replace(limits, output_bytes=2 * longest)


def grade_run(outcome: Outcome) -> Grade:
    """Grade a run by how it ended; one that gave a value has to be compared yet."""
    return Grade(right=False, failure=outcome.failure, infra=outcome.infra, detail=outcome.detail)


def grade_value(accepted: bool) -> Grade:
    """Grade a value that was compared."""
    return Grade(right=accepted, failure=None if accepted else Failure.WRONG_ANSWER)


def raise_infra(outcomes: Sequence[Outcome], who: str) -> None:
    """Raise SandboxError when one of the outcomes is a failure of ours."""
    bad = next((outcome for outcome in outcomes if outcome.infra), None)
    if bad is not None:
        raise SandboxError(f"{who} could not run: {bad.infra}")
