"""A problem's own programs: validator and generator."""

from dataclasses import replace

import pytest

from openzaya.core.errors import DataError, SandboxError
from openzaya.envs.code.grading import Grader
from openzaya.envs.code.problem import Mode, Problem, Program, Provenance
from openzaya.envs.code.runner import Runner
from openzaya.sandbox.executor import Executor, Limits, Result, Status

TEXTS = Problem(
    id="texts",
    statement="",
    mode=Mode.STDIN,
    validator=Program(source="def validate(text): return int(text) > 0", entry="validate"),
    generator=Program(
        source="import random\n"
        "def generate(seed, size): return str(random.Random(seed).randint(1, size)) + '\\n'",
        entry="generate",
    ),
    limits=Limits(cpu_s=1, wall_s=30),
    provenance=Provenance(source="test", license="Apache-2.0"),
)
CALLS = replace(
    TEXTS,
    mode=Mode.FUNCTION,
    entry="f",
    validator=Program(source="def validate(xs, k): return 0 < k <= len(xs)", entry="validate"),
    generator=Program(
        source="def generate(seed, size): return [list(range(seed, seed + size)), 1]",
        entry="generate",
    ),
)


def test_a_validator_sees_an_input_as_a_candidate_does(executor):
    grader = Grader(Runner(executor))
    assert grader.are_valid(TEXTS, ["5\n", "-5\n", "five\n"]) == [True, False, False]
    inputs = [[[1, 2], 2], [[1, 2], 3], {"xs": [1], "k": 1}, [[1]], [1, 2, 3]]
    assert grader.are_valid(CALLS, inputs) == [True, False, True, False, False]


def test_a_validator_that_reads_stdin_answers_by_its_exit_code(executor):
    problem = replace(TEXTS, validator=Program(source="assert int(input()) > 0"))
    assert Grader(Runner(executor)).are_valid(problem, ["5\n", "-5\n"]) == [True, False]


def test_a_truthy_answer_is_no_yes(executor):
    problem = replace(TEXTS, validator=Program(source="def v(text): return 1", entry="v"))
    assert Grader(Runner(executor)).are_valid(problem, ["5\n"]) == [False]


def test_a_generator_makes_the_same_inputs_for_the_same_seeds(executor):
    grader = Grader(Runner(executor))
    made = grader.generate(TEXTS, [1, 2, 1], 1000)
    assert made[0] == made[2] != made[1]
    assert grader.generate(CALLS, [3], 2) == [[[3, 4], 1]]


def test_a_generator_that_fails_or_makes_something_else_is_an_error(executor):
    grader = Grader(Runner(executor))
    for source, message in (
        ("def g(s, n): return 5", "must be str"),
        ("def g(s, n): 1/0", "crash"),
    ):
        problem = replace(TEXTS, generator=Program(source=source, entry="g"))
        with pytest.raises(DataError, match=message):
            grader.generate(problem, [1], 1)


class Broken(Executor):
    """A sandbox that never works."""

    def run(self, request):
        return Result(status=Status.INFRA, reason="broken")

    def close(self):
        pass


def test_a_broken_sandbox_is_an_error_and_no_answer():
    grader = Grader(Runner(Broken()))
    with pytest.raises(SandboxError, match="broken"):
        grader.are_valid(TEXTS, ["5\n"])
    with pytest.raises(SandboxError, match="broken"):
        grader.generate(TEXTS, [1], 1)


def test_a_problem_without_helpers_says_so():
    bare = replace(TEXTS, validator=None, generator=None)
    grader = Grader(Runner(Broken()))
    with pytest.raises(DataError, match="no validator"):
        grader.are_valid(bare, ["5\n"])
    with pytest.raises(DataError, match="no generator"):
        grader.generate(bare, [1], 1)
