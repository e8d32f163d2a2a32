"""Where the tiers differ is counted and logged with all it takes to see it again."""

import json

import pytest

from openzaya.core.errors import RequestError
from openzaya.core.log import MetricWriter, RecordWriter, read_metrics
from openzaya.core.records import Judgement
from openzaya.envs.math.gold import Rules, parse_gold
from openzaya.envs.math.grade import grade
from openzaya.envs.math.tiers import Tiers
from openzaya.sandbox.pool import Ended, Outcome

GOLD = parse_gold("(1, 2)", "tuple", Rules(choices=()))
SET, TUPLE = r"\boxed{\{1, 2\}}", r"\boxed{(1, 2)}"


class Always:
    """A pool whose calls all end alike."""

    def __init__(self, outcome: Outcome | Exception) -> None:
        self.outcome = outcome
        self.calls: list[tuple[object, ...]] = []

    def call(self, function: str, *arguments: object) -> Outcome:
        self.calls.append(arguments)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


YES, NO = (Outcome(ended=Ended.VALUE, value=value) for value in (True, False))
STOPPED = Outcome(ended=Ended.TIMEOUT, message="killed")


@pytest.mark.parametrize(
    ("reply", "outcome", "found", "judgement"),
    [
        (TUPLE, YES, "agree", Judgement.RIGHT),
        (SET, NO, "agree", Judgement.WRONG),
        (SET, YES, "second_only", Judgement.WRONG),
        (TUPLE, NO, "first_only", Judgement.RIGHT),
        (TUPLE, STOPPED, "failed", Judgement.RIGHT),
        (SET, Outcome(ended=Ended.DIED, message="gone"), "failed", Judgement.WRONG),
        (SET, RequestError("No module named 'math_verify'"), "failed", Judgement.WRONG),
    ],
)
def test_the_first_tier_decides_and_every_difference_is_counted(reply, outcome, found, judgement):
    tiers = Tiers()
    verdict = grade(GOLD, reply, started_in_think=False, pool=Always(outcome), tiers=tiers)
    assert verdict.judgement is judgement
    assert dict(tiers.counts) == {found: 1}


def test_a_line_of_the_log_is_enough_to_see_the_difference_again(tmp_path):
    tiers = Tiers(RecordWriter(tmp_path / "tiers.jsonl"))
    pool = Always(YES)
    for reply in (SET, TUPLE, r"\boxed{(2, 1)}"):
        grade(GOLD, reply, started_in_think=False, pool=pool, tiers=tiers)
    lines = [json.loads(line) for line in (tmp_path / "tiers.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == [r"\{1, 2\}", "(2, 1)"]
    assert {line["found"] for line in lines} == {"second_only"}
    for line in lines:
        rules = {**line["rules"], "allow": frozenset(line["rules"]["allow"])}
        gold = parse_gold(line["gold"], line["kind"], Rules(**rules))
        again = grade(gold, rf"\boxed{{{line['answer']}}}", started_in_think=False)
        assert again.judgement is Judgement.WRONG
        assert line["first"]["fault"] == again.reason
    tiers.log = None
    writer = MetricWriter(tmp_path / "metrics.jsonl")
    writer.write(1, "grade", tiers.metrics())
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert record["grader/second_tier_asked"] == 3
    assert record["grader/tiers_differ"] == pytest.approx(2 / 3)


def test_a_share_is_always_the_same_answers():
    asked = []
    for _ in range(2):
        pool, tiers = Always(YES), Tiers(share=0.3)
        for number in range(200):
            reply = rf"\boxed{{{number}}}"
            grade(parse_gold("7"), reply, started_in_think=False, pool=pool, tiers=tiers)
        asked.append(pool.calls)
        assert tiers.counts.total() == len(pool.calls)
    assert asked[0] == asked[1]
    assert 30 < len(asked[0]) < 90
    tiers = Tiers(share=0.0)
    grade(parse_gold("7"), r"\boxed{7}", started_in_think=False, pool=pool, tiers=tiers)
    assert tiers.counts.total() == 0
