"""What the judge concludes, and what it tells whom."""

import pytest

from openzaya.core.errors import DataError
from openzaya.core.records import Judgement
from openzaya.envs.code.judge import Flag, Judge, Policy
from openzaya.envs.code.problem import Failure, Mode, Problem, Program, Provenance, Test
from openzaya.envs.code.runner import Isolation, Runner
from openzaya.sandbox.executor import Executor, Limits, Result, Status

OWN = Provenance(source="test", license="Apache-2.0")
DOUBLE = Problem(
    id="double",
    statement="Return twice the number.",
    mode=Mode.FUNCTION,
    entry="f",
    public_tests=(Test(input=[1], output=2),),
    private_tests=tuple(Test(input=[n], output=2 * n) for n in (5, 77_777, -3)),
    limits=Limits(cpu_s=1, wall_s=30),
    provenance=OWN,
)
ECHO = Problem(
    id="echo",
    statement="Print the line.",
    mode=Mode.STDIN,
    public_tests=(Test(input="one\n", output="one\n"),),
    private_tests=(Test(input="hidden-input\n", output="hidden-input\n"),),
    limits=Limits(cpu_s=1, wall_s=30),
    provenance=OWN,
)


def say(judge, problem, source):
    return judge.judge(problem, problem.candidate(source))


def test_a_right_program_passes_every_test(judge):
    said = say(judge, DOUBLE, "def f(n): return n * 2")
    assert said.verdict.judgement is Judgement.RIGHT
    assert (said.num_passed, said.num_run, said.flags) == (4, 4, ())


def test_a_program_made_for_the_visible_tests_is_wrong_and_flagged(judge):
    said = say(judge, DOUBLE, "def f(n): return 2")
    assert said.verdict.judgement is Judgement.WRONG
    assert said.suspected_hack
    assert Flag.FAILS_HELD_OUT in said.flags


def test_a_program_that_fails_a_visible_test_is_wrong_without_suspicion(judge):
    said = say(judge, DOUBLE, "def f(n): return 3")
    assert (said.verdict.judgement, said.flags) == (Judgement.WRONG, ())


def test_the_score_of_a_wrong_program_counts_the_tests_it_passes_and_stays_below_one(judge):
    said = say(judge, DOUBLE, "def f(n): return n * 2 if n < 5 else 0")
    assert said.verdict.judgement is Judgement.WRONG
    assert 0 < said.num_passed < 4
    assert said.verdict.score == said.num_passed / 5


def test_the_public_reason_shows_nothing_of_a_held_out_test(judge):
    said = say(
        judge,
        ECHO,
        "import sys\nx = input()\nprint(x, file=sys.stderr)\nassert x == 'one'\nprint(x)",
    )
    assert "hidden" not in said.verdict.reason
    assert "hidden-input" in said.private_reason
    visible = say(judge, ECHO, "print('two')")
    assert "one" in visible.verdict.reason


class Later(Executor):
    """An executor that works for `good` runs and answers the same from then on."""

    def __init__(self, inner, good, answer):
        self.inner = inner
        self.good = good
        self.answer = answer

    def run(self, request):
        self.good -= 1
        return self.inner.run(request) if self.good >= 0 else self.answer

    def close(self):
        pass


@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        (Result(status=Status.TIME_CPU), Judgement.RIGHT),  # a busy machine
        (Result(status=Status.INFRA, reason="broken"), Judgement.INFRA),
        (Result(status=Status.OK, stdout=b'{"value": 0}'), Judgement.WRONG),
        (Result(status=Status.SIGNAL), Judgement.WRONG),
    ],
)
def test_further_runs_of_a_program_that_passed_can_show_a_flake(executor, answer, judgement):
    judge = Judge(Runner(Later(executor, 4, answer)))
    said = say(judge, DOUBLE, "def f(n): return n * 2")
    assert said.verdict.judgement is judgement
    assert (Flag.FLAKY in said.flags) == (judgement is Judgement.WRONG)


class Broken:
    """An executor whose sandbox fails the first `failures` runs."""

    def __init__(self, inner, failures):
        self.inner = inner
        self.failures = failures

    def run_all(self, requests):
        results = []
        for request in requests:
            if self.failures > 0:
                self.failures -= 1
                results.append(Result(status=Status.INFRA, reason="secret host detail"))
            else:
                results += self.inner.run_all([request])
        return results


def test_a_broken_sandbox_is_infra_and_never_wrong(executor):
    judge = Judge(Runner(Broken(executor, 10**9)))
    for source in ("def f(n): return n * 2", "def f(n): return 3"):
        said = say(judge, DOUBLE, source)
        assert said.verdict.judgement is Judgement.INFRA
        assert "secret" not in said.verdict.reason
        assert "secret" in said.private_reason


def test_a_sandbox_that_recovers_costs_a_second_try_only(executor):
    judge = Judge(Runner(Broken(executor, 2)))
    assert say(judge, DOUBLE, "def f(n): return n * 2").verdict.reward == 1.0


CHECKED = Problem(
    id="divisor",
    statement="Print a divisor other than 1.",
    mode=Mode.STDIN,
    public_tests=(Test(input="12\n", output="2\n"),),
    private_tests=(Test(input="35\n", output="5\n"),),
    checker=Program(
        source="def check(given, output, expected):\n"
        "    n = int(output)\n"
        "    return n > 1 and int(given) % n == 0",
        entry="check",
    ),
    limits=Limits(cpu_s=1, wall_s=30),
    provenance=OWN,
)


@pytest.mark.parametrize(
    ("source", "judgement"),
    [
        ("n = int(input())\nprint(n)", Judgement.RIGHT),
        ("print(1)", Judgement.WRONG),
        ("print('x')", Judgement.WRONG),  # the checker crashes on it, but not on the expected one
        ("print('9' * 5000)", Judgement.WRONG),
    ],
)
def test_a_checker_accepts_any_right_output(judge, source, judgement):
    assert say(judge, CHECKED, source).verdict.judgement is judgement


def test_a_checker_that_fails_on_the_expected_output_too_is_our_failure(judge):
    from dataclasses import replace

    broken = replace(CHECKED, checker=Program(source="def check(*_): return 'yes'", entry="check"))
    said = say(judge, broken, "print(12)")
    assert said.verdict.judgement is Judgement.INFRA


def test_a_problem_without_tests_judges_nothing(judge):
    empty = Problem(id="e", statement="", mode=Mode.STDIN, provenance=OWN)
    with pytest.raises(DataError, match="no tests"):
        say(judge, empty, "print()")


@pytest.mark.slow
def test_forked_runs_are_like_boxed_ones(executor):
    runner = Runner(executor)
    program = Program(
        source="import sys\nseen = []\n"
        "def f(n):\n"
        "    seen.append(n)\n"
        "    if n == 2: sys.exit(0)\n"
        "    if n == 3: return {1}\n"
        "    if n == 4: return 1 / 0\n"
        "    if n == 5:\n"
        "        while True: pass\n"
        "    return [n, seen]",
        entry="f",
    )
    inputs = [[n] for n in range(7)]
    limits = Limits(cpu_s=0.5, wall_s=30)
    forked = runner.run(program, inputs, limits=limits, isolation=Isolation.FORK)
    boxed = runner.run(program, inputs, limits=limits)
    assert [o.failure for o in forked] == [o.failure for o in boxed]
    assert [o.value for o in forked] == [o.value for o in boxed]
    assert [o.failure for o in forked] == [
        None,
        None,
        Failure.NO_VALUE,
        Failure.BAD_VALUE,
        Failure.CRASH,
        Failure.TIME,
        None,
    ]
    assert forked[6].value == [6, [6]]  # nothing of the other calls


def test_the_policy_picks_the_same_held_out_tests_for_everyone(executor):
    judge = Judge(Runner(executor), Policy(max_private_tests=2))
    first = judge.choose_tests(DOUBLE)
    assert first == judge.choose_tests(DOUBLE)
    assert len(first) == 3
    assert first[0] == DOUBLE.public_tests[0]


def test_a_program_that_passes_once_and_not_again_is_wrong_and_flaky(judge):
    """It answers right with probability 1/2 a run; some seeds of the operating system pass once."""
    source = "import os\ndef f(n): return n * 2 if os.urandom(1)[0] % 2 else 0"
    single = Problem(
        id="coin",
        statement="",
        mode=Mode.FUNCTION,
        entry="f",
        private_tests=(Test(input=[5], output=10),),
        provenance=OWN,
    )
    flaky = 0
    for attempt in range(40):
        said = say(judge, single, source + f"  # {attempt}")
        if Flag.FLAKY in said.flags:
            assert said.verdict.judgement is Judgement.WRONG
            flaky += 1
        if flaky:
            break
    assert flaky
