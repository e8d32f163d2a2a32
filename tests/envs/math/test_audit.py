"""Right answers in many styles are accepted, near misses are not: both known by construction."""

from collections import Counter
from random import Random

import pytest
from envs.math.audit import WRAPPINGS, pairs, problems

from openzaya.core.records import Judgement
from openzaya.envs.math.grade import grade


def judged(count: int, seed: int, right: bool) -> list[tuple[str, str, str]]:
    """Return (style, gold, reply) of every pair whose verdict is not the one it was made with."""
    expected = Judgement.RIGHT if right else Judgement.WRONG
    return [
        (pair.style, pair.problem.gold, pair.reply)
        for pair in pairs(Random(seed), count, right=right)
        if grade(pair.gold(), pair.reply, started_in_think=False).judgement is not expected
    ]


def test_right_answers_are_accepted_and_near_misses_are_not():
    assert judged(250, 5, right=True) == []
    assert judged(250, 6, right=False) == []


@pytest.mark.slow
def test_of_two_thousand_right_answers_995_in_a_thousand_are_accepted():
    refused = judged(2_000, 7, right=True)
    assert len(refused) <= 10, refused[:5]
    assert judged(2_000, 8, right=False) == []


def test_every_kind_of_gold_and_many_styles_are_audited():
    made = list(pairs(Random(0), 1_000, right=True))
    assert {pair.problem.kind for pair in made} == {
        *("integer", "rational", "decimal", "expression", "tuple", "set", "interval", "matrix"),
        *("choice", "text"),
    }
    assert {pair.wrapping for pair in made} == set(WRAPPINGS)
    assert len({(pair.problem.kind, pair.style) for pair in made}) >= 80


def test_no_problem_offers_one_answer_as_right_and_wrong():
    source = problems(Random(3))
    for _ in range(400):
        problem = next(source)
        rights = Counter(text for _, text in problem.right)
        assert not [text for _, text in problem.wrong if text in rights]


def test_the_same_stream_makes_the_same_pairs():
    assert list(pairs(Random(1), 50, right=True)) == list(pairs(Random(1), 50, right=True))
