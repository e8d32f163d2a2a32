"""Running programs: what is remembered, what is believed of a report, who may share a box."""

import pytest

from openzaya.core.errors import RequestError
from openzaya.envs.code.outcomes import Outcome, OutcomeCache, fingerprint
from openzaya.envs.code.problem import Failure, Program
from openzaya.envs.code.runner import CALLS_PER_BOX, Isolation, Runner, key_of, read_line
from openzaya.sandbox.executor import Executor, Limits, Result, Status

DOUBLE = Program(source="def f(n): return n * 2", entry="f")


class Counting(Executor):
    """Counts the boxes that an executor starts, and can answer instead of it."""

    def __init__(self, inner, answer=None):
        self.inner = inner
        self.answer = answer
        self.num_boxes = 0

    def run(self, request):
        self.num_boxes += 1
        return self.answer or self.inner.run(request)

    def close(self):
        pass


def test_an_outcome_is_computed_once_and_again_when_asked_for(executor):
    counting = Counting(executor)
    runner = Runner(counting)
    first = runner.run(DOUBLE, [[1], [2]])
    assert [outcome.value for outcome in first] == [2, 4]
    assert runner.run(DOUBLE, [[2], [3]])[0] is first[1]
    assert counting.num_boxes == 3
    runner.run(DOUBLE, [[1]], fresh=True)
    assert counting.num_boxes == 4
    assert (runner.cache.hits, runner.cache.misses) == (1, 3)


def test_everything_that_can_change_an_outcome_is_in_the_key():
    base = (DOUBLE, [1], Limits(), "", Isolation.BOX)
    others = [
        (Program(source=DOUBLE.source + " ", entry="f"), *base[1:]),
        (Program(source=DOUBLE.source, entry="g"), *base[1:]),
        (Program(source=DOUBLE.source, entry="f", language="cpp"), *base[1:]),
        (DOUBLE, [1.0], *base[2:]),
        (DOUBLE, [True], *base[2:]),
        (DOUBLE, [1], Limits(cpu_s=9), "", Isolation.BOX),
        (DOUBLE, [1], Limits(), "x = 1", Isolation.BOX),
        (DOUBLE, [1], Limits(), "", Isolation.FORK),
    ]
    keys = {key_of(*parts) for parts in [base, *others]}
    assert len(keys) == 1 + len(others)
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


@pytest.mark.parametrize("status", [Status.INFRA, Status.TIME_CPU, Status.TIME_WALL])
def test_what_another_moment_could_change_is_not_remembered(status):
    counting = Counting(None, Result(status=status, reason="r"))
    runner = Runner(counting, infra_retries=0)
    for _ in range(2):
        runner.run(DOUBLE, [[1]])
    assert counting.num_boxes == 2
    assert len(runner.cache) == 0


def test_the_oldest_outcome_leaves_a_full_cache():
    cache = OutcomeCache(capacity=2)
    for name in (b"a", b"b"):
        cache.put(name, Outcome(value=1))
    assert cache.get(b"a") is not None
    cache.put(b"c", Outcome(value=1))
    assert [cache.get(name) is None for name in (b"a", b"b", b"c")] == [False, True, False]


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        (b"", Failure.NO_VALUE),
        (b"\n", Failure.NO_VALUE),
        (b'{"value": 1}{"value": 1}', Failure.NO_VALUE),
        (b'{"value": 1}\n{"value": 1}\n', Failure.NO_VALUE),
        (b'{"value": 1, "value": 2}', Failure.NO_VALUE),
        (b'{"value": 1, "status": "ok"}', Failure.NO_VALUE),
        (b'{"value": NaN}', Failure.NO_VALUE),
        (b'{"value": 1', Failure.NO_VALUE),
        (b'{"failure": "right"}', Failure.NO_VALUE),
        (b"[1]", Failure.NO_VALUE),
        (b"1", Failure.NO_VALUE),
        (b"\xff", Failure.NO_VALUE),
        (b'{"value": ' + b"[" * 100_000, Failure.NO_VALUE),
        (b'{"failure": "crash", "detail": "x"}', Failure.CRASH),
        (b'{"failure": "crash", "value": 1}', Failure.CRASH),
    ],
)
def test_a_report_that_is_not_exactly_one_value_is_a_failure(line, failure):
    outcome = read_line(line)
    assert (outcome.failure, outcome.ok) == (failure, False)


def test_a_report_of_one_value_is_that_value():
    assert read_line(b' {"value": [1, null, "x"]}\n').value == [1, None, "x"]


def test_many_trusted_calls_share_boxes(executor):
    counting = Counting(executor)
    inputs = [[n] for n in range(CALLS_PER_BOX + 1)]
    outcomes = Runner(counting).run(DOUBLE, inputs, isolation=Isolation.FORK)
    assert [outcome.value for outcome in outcomes] == [2 * n for n in range(CALLS_PER_BOX + 1)]
    assert counting.num_boxes == 2


def test_a_shared_box_that_fails_on_our_side_says_nothing_of_any_call():
    broken = Counting(None, Result(status=Status.INFRA, stdout=b'{"value": 2}\n', reason="r"))
    outcomes = Runner(broken).run(DOUBLE, [[1], [2]], isolation=Isolation.FORK)
    assert [outcome.infra for outcome in outcomes] == ["r", "r"]


def test_programs_that_read_stdin_can_share_a_box_too(executor):
    program = Program(source="import sys\nprint(sys.stdin.read()[::-1])\nif input: sys.exit(0)")
    outcomes = Runner(executor).run(program, ["ab", "cd"], isolation=Isolation.FORK)
    assert [outcome.value for outcome in outcomes] == ["ba\n", "dc\n"]


def test_functions_and_shared_boxes_need_python():
    runner = Runner(Counting(None))
    with pytest.raises(RequestError, match="need Python"):
        runner.run(Program(source="", language="cpp", entry="f"), [[1]])
    with pytest.raises(RequestError, match="need Python"):
        runner.run(Program(source="", language="cpp"), ["x"], isolation=Isolation.FORK)


@pytest.mark.parametrize("isolation", Isolation)
def test_a_candidate_runs_as_it_would_by_itself(executor, isolation):
    """The harness's future imports, names and arguments are not the candidate's."""
    sources = {
        "def f(n: nothing_of_that_name): return n": Failure.CRASH,
        "def f(n): return json.dumps(n)": Failure.CRASH,
        "from __future__ import annotations\ndef f(n: nothing): return n": None,
        "def f(n): return __name__": None,
    }
    for source, failure in sources.items():
        program = Program(source=source, entry="f")
        (outcome,) = Runner(executor).run(program, [[1]], isolation=isolation)
        assert outcome.failure is failure, (source, outcome)


@pytest.mark.parametrize("isolation", Isolation)
def test_a_prelude_runs_in_the_module_and_leaves_the_first_line_to_the_candidate(
    executor, isolation
):
    program = Program(
        source="from __future__ import annotations\ndef f(n: List[int]): return math.gcd(n, 6)",
        entry="f",
    )
    (outcome,) = Runner(executor).run(program, [[4]], prelude="import math", isolation=isolation)
    assert outcome.value == 2, outcome
