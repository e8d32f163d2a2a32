"""Prompts can be kept: the conflict table, and a witness for whatever it lets through."""

from itertools import combinations
from random import Random

import pytest

from openzaya.core.records import Judgement
from openzaya.envs.instruct import compose, kinds, task
from openzaya.envs.instruct.constraint import Draw
from openzaya.envs.instruct.topics import topics

KINDS = kinds.kinds()
PAIRS = [pair for pair in combinations(KINDS, 2) if frozenset(pair) not in kinds.clashes()]
SHARDS = 12


def has_witness(names, seed):
    """Say whether the writers keep constraints of these kinds together, for one draw."""
    rng = Random(f"{names} {seed}")
    topic = rng.choice(topics())
    drawn = [KINDS[name].sample(Draw(rng, 5 * seed, topic)) for name in names]
    return compose.witness(rng, compose.plan(rng, topic, drawn)) is not None


def test_clashes_are_mutual_and_what_cannot_go_together_clashes():
    for one, other in combinations(KINDS.values(), 2):
        assert kinds.clash(one, other) == kinds.clash(other, one)
        assert kinds.clash(one, one)
    for pair in (
        ("all_uppercase", "all_lowercase"), ("no_commas", "commas_at_least"),
        ("no_digits", "numbered_exactly"), ("words_at_least", "words_at_most"),
        ("no_markdown", "table_rows"), ("json_reply", "postscript"),
        ("reply_language", "avoid_letter"), ("starts_with", "first_word"),
        ("no_full_stops", "ends_with"), ("echo_at_end", "no_sentence_twice"),
    ):  # fmt: skip
        assert frozenset(pair) in kinds.clashes(), pair


def test_most_pairs_may_stand_together():
    total = len(KINDS) * (len(KINDS) - 1) // 2
    assert len(PAIRS) > 0.75 * total


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_pair_that_the_table_lets_through_has_a_witness(shard):
    """Every one of some 5,400 pairs of kinds, for at least one of six draws of arguments."""
    without = [
        pair for pair in PAIRS[shard::SHARDS]
        if not any(has_witness(pair, seed) for seed in range(6))
    ]  # fmt: skip
    assert without == []


@pytest.mark.parametrize("difficulty", [0, 2, 4, 7, 10, 14])
def test_every_prompt_has_a_witness_that_scores_one(difficulty):
    for seed in range(4):
        problem = task.make(Random(1_000 + seed), difficulty)
        assert task.score(problem, problem.reference).judgement is Judgement.RIGHT


@pytest.mark.slow
def test_most_draws_of_up_to_five_constraints_have_a_witness():
    """The table is no formality: what it lets through is seldom given up."""
    found, total = 0, 0
    for seed in range(200):
        rng = Random(seed)
        topic = rng.choice(topics())
        drawn = compose.draw(rng, seed % 15, topic)
        if drawn is not None:
            total += 1
            found += compose.witness(rng, compose.plan(rng, topic, drawn)) is not None
    assert total >= 180
    assert found >= 0.8 * total


def test_contradictory_arguments_have_no_witness():
    """Proof that a witness is checked: the table lets these kinds through, the draw does not."""
    topic = topics()[0]
    include = KINDS["include_words"].restore({"words": ["river"]})
    avoid = KINDS["avoid_words"].restore({"words": ["river"]})
    assert not kinds.clash(type(include), type(avoid))
    planned = compose.plan(Random(0), topic, [include, avoid])
    assert compose.witness(Random(0), planned) is None
