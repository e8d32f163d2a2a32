"""The second tier: math-verify in the killable pool, and what is whose fault."""

import pytest

from openzaya.core.errors import DataError, RequestError
from openzaya.core.records import Judgement
from openzaya.envs.math.gold import Rules, parse_gold
from openzaya.envs.math.grade import grade
from openzaya.envs.math.second import FUNCTION, check_gold
from openzaya.sandbox.pool import Ended, Outcome, Pool, PoolLimits

SECOND = Rules(second_tier=True)
GOLD = parse_gold("y = 2x + 3", "other", SECOND)


class Scripted:
    """A pool that ends as told, once for each call."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[object, ...]] = []

    def call(self, function: str, *arguments: object) -> Outcome:
        self.calls.append(arguments)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


YES, NO = (Outcome(ended=Ended.VALUE, value=value) for value in (True, False))
STOPPED = Outcome(ended=Ended.TIMEOUT, message="killed")
MEMORY = Outcome(ended=Ended.MEMORY, message="too much")
RAISED = Outcome(ended=Ended.RAISED, message="ValueError: ?")
DIED = Outcome(ended=Ended.DIED, message="gone")


@pytest.mark.parametrize(
    ("outcomes", "judgement"),
    [
        ([YES], Judgement.RIGHT),
        ([NO], Judgement.WRONG),
        ([STOPPED, YES], Judgement.WRONG),  # the gold alone passes: the answer's fault
        ([STOPPED, STOPPED], Judgement.INFRA),
        ([MEMORY, YES], Judgement.WRONG),
        ([RAISED, YES], Judgement.WRONG),
        ([RAISED, NO], Judgement.INFRA),
        ([DIED], Judgement.INFRA),
        ([STOPPED, DIED], Judgement.INFRA),
        ([RequestError("No module named 'math_verify'")], Judgement.INFRA),
    ],
)
def test_a_verdict_blames_the_answer_only_where_the_gold_alone_passes(outcomes, judgement):
    pool = Scripted(*outcomes)
    assert grade(GOLD, "\\boxed{y = x}", started_in_think=False, pool=pool).judgement is judgement
    assert pool.outcomes == []
    assert pool.calls[0] == (GOLD.text, "y = x")


TOWER = "9^{9^{9^9}} - 9^{9^{9^9}} + 42"


@pytest.mark.parametrize(
    "answer",
    [
        f"y = {TOWER}",
        "y = 10^{9^9}",
        "y = 5000!",
        r"y = \int 2\,dx",
        "y = diff(x^2,x)+3",
        "\u0664",
        "y" * 9000,
    ],
)
def test_work_left_undone_and_unreadable_text_never_reach_it(answer):
    pool = Scripted()
    verdict = grade(GOLD, f"\\boxed{{{answer}}}", started_in_think=False, pool=pool)
    assert verdict.judgement is Judgement.WRONG


def test_a_gold_may_allow_work_to_be_left_undone():
    gold = parse_gold(
        r"y=\int_0^x t\,dt", None, Rules(second_tier=True, allow=frozenset({"integral"}))
    )
    answer = r"\boxed{y=\int_0^x t\,dt}"
    assert grade(gold, answer, started_in_think=False, pool=Scripted(YES)).reward == 1.0


def test_a_gold_that_is_not_equal_to_itself_is_refused():
    with pytest.raises(DataError, match="not equal to itself"):
        check_gold(GOLD, Scripted(NO))


@pytest.mark.slow
def test_math_verify_itself_grades_equations_and_is_killed_at_a_power_tower():
    pytest.importorskip("math_verify")
    with Pool(1, limits=PoolLimits(wall_s=20.0, cpu_s=20.0, start_s=200.0)) as pool:
        check_gold(GOLD, pool)
        for answer, right in (("2x - y + 3 = 0", True), ("y = 2x + 4", False)):
            verdict = grade(GOLD, f"\\boxed{{{answer}}}", started_in_think=False, pool=pool)
            assert (verdict.judgement is Judgement.RIGHT) == right
    with Pool(1, limits=PoolLimits(wall_s=2.0, start_s=200.0)) as pool:
        outcome = pool.call(FUNCTION, "42", TOWER)
        assert outcome.ended in (Ended.TIMEOUT, Ended.MEMORY)
        assert outcome.wall_s < 2.5
