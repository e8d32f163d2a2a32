"""Laws of the environment: made from the stream, survives JSON, harder means more and rarer."""

import json
import random
from dataclasses import asdict, replace
from random import Random

import pytest

from openzaya.core.errors import EnvError
from openzaya.core.records import Judgement
from openzaya.envs.base import Problem
from openzaya.envs.instruct import compose, kinds, task
from openzaya.envs.instruct.gate import MIN_WORDS

DIFFICULTIES = (0, 1, 3, 6, 10, 14, 40)


def test_the_same_stream_makes_the_same_problem_and_global_random_stays_untouched():
    before = random.getstate()
    for difficulty in (0, 4, 14):
        first, second = (task.make(Random(difficulty), difficulty) for _ in range(2))
        assert first == second
        assert task.make(Random(difficulty + 1_000), difficulty) != first
    assert random.getstate() == before


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_problem_survives_json_and_its_reference_is_right(difficulty):
    for seed in range(3):
        problem = task.make(Random(seed), difficulty)
        again = Problem(**json.loads(json.dumps(asdict(problem))))
        assert again == problem
        assert task.score(again, problem.reference).judgement is Judgement.RIGHT
        assert f"Write {MIN_WORDS} words or more of your own." in problem.prompt
        for row in problem.data["constraints"]:
            assert row["instruction"] in problem.prompt
            assert "{" not in row["instruction"]


@pytest.mark.parametrize("difficulty", range(18))
def test_difficulty_is_number_times_rarity(difficulty):
    for seed in range(30):
        drawn = compose.rarities(Random(seed), difficulty)
        assert 1 <= len(drawn) <= 5
        assert set(drawn) <= {1, 2, 3}
        mean_rarity = sum(drawn) / len(drawn)
        assert len(drawn) * mean_rarity == pytest.approx(min(difficulty + 1, 15))


def test_problems_have_the_rarities_that_their_difficulty_asks_for():
    for difficulty in (0, 4, 9, 14):
        problem = task.make(Random(3), difficulty)
        drawn = [kinds.get(row["name"]).rarity for row in problem.data["constraints"]]
        assert sum(drawn) == difficulty + 1


def test_negative_difficulty_is_refused():
    with pytest.raises(EnvError, match="difficulty is -1"):
        task.make(Random(0), -1)


def test_the_share_of_kept_instructions_is_logged_as_score():
    """A reply with content of its own that keeps one of two instructions."""
    rows = [
        {"name": "no_digits", "arguments": {}, "instruction": "No digits."},
        {"name": "words_at_least", "arguments": {"count": 9_999}, "instruction": "Many words."},
    ]
    made = task.make(Random(0), 0)
    prompt = "Explain why a bridge stands. Write 30 words or more of your own."
    problem = Problem(prompt, "", {**made.data, "topic": "bridges", "constraints": rows})
    reply = (
        "A bridge stands because the load of each car goes down through steel or stone to the bank"
        " of the river. Every pillar and cable takes its part of it, and so does the arch below."
    )
    verdict = task.score(problem, reply)
    assert verdict.reason == "not kept: Many words."
    assert verdict.score == pytest.approx(0.99 / 2)


def test_a_stored_constraint_that_does_not_exist_is_our_error_and_not_a_verdict():
    problem = task.make(Random(0), 0)
    rows = [{"name": "no_such_thing", "arguments": {}, "instruction": "x"}]
    with pytest.raises(EnvError, match="no constraint 'no_such_thing'"):
        task.score(replace(problem, data={**problem.data, "constraints": rows}), "x")
