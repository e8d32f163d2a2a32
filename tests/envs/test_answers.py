"""Answers that only a careful verifier gets right, task by task."""

from random import Random

import pytest

from openzaya.envs import catalog
from openzaya.envs.base import Problem


def reward(name: str, problem: Problem, answer: str) -> float:
    """Judge a final answer."""
    return catalog.get(name).score(problem, f"\n</think>\n\n{answer}").reward


COUNTDOWN = Problem("", "3+7-5", {"digits": [3, 7, 5], "target": 5})
SUBSET = Problem("", "ab", {"numbers": [3, 8, 5, 6], "target": 1, "wanted": 2})
MODEQ = Problem("", "3", {"coefficients": [3, 5, 2], "target": 4})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("3+7-5", 1.0),
        ("3*7+5", 0.0),  # makes 6
        ("3-7*5", 0.0),  # makes 0: left to right, no precedence
        ("3 + 7 - 5", 1.0),
        ("7+3-5", 0.0),  # the right value, but not the given order
        ("3+7-5-0", 0.0),
        ("3+7", 0.0),
        ("3**7+5", 0.0),
        ("37-5", 0.0),
        ("+3+7-5", 0.0),
    ],
)
def test_countdown_reads_left_to_right_with_exactly_the_given_digits(answer, expected):
    assert reward("countdown", COUNTDOWN, answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("ab", 1.0),
        ("ba", 1.0),
        ("cd", 1.0),
        ("ac", 0.0),
        ("a", 0.0),
        ("abd", 0.0),
        ("ae", 0.0),
        ("bb", 0.0),
    ],
)
def test_subset_wants_that_many_different_known_letters(answer, expected):
    assert reward("subset", SUBSET, answer) == expected


def test_modeq_accepts_every_root_and_nothing_else():
    roots = [x for x in range(10) if (3 * x * x + 5 * x + 2) % 10 == 4]
    assert [x for x in range(10) if reward("modeq", MODEQ, str(x)) == 1.0] == roots
    assert reward("modeq", MODEQ, "x=3") == 0.0


def test_parts_gives_partial_score_but_no_partial_reward():
    env = catalog.get("parts")
    problem = env.make(Random(0), 1)
    letters = problem.reference
    broken = letters[:-1] + str((int(letters[-1]) + 1) % 10)
    verdict = env.score(problem, f"\n</think>\n\n{broken}")
    assert verdict.reward == 0.0
    assert 0.7 < verdict.score < 1.0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("add", "1"), ("chain", "x"), ("code", "12"), ("sort", "zyx"), ("cipher", "a1")],
)
def test_a_wrong_answer_earns_nothing(name, wrong):
    problem = catalog.get(name).make(Random(3), 2)
    assert reward(name, problem, wrong) == 0.0
