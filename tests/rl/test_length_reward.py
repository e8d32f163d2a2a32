"""Laws of the difficulty-scaled length reward and of the record of solve rates."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.rl import spine

CONFIG = spine.LengthRewardConfig(max_tokens=100, slack_share=0.02)
NO_RECORD = torch.zeros(1)


def bonus(
    rewards: list[float], lengths: list[int], best: float = 0.0, **changes: float
) -> list[float]:
    config = spine.LengthRewardConfig(**{"max_tokens": 100, "slack_share": 0.02, **changes})
    result = spine.length_reward(
        torch.tensor([rewards]), torch.tensor([lengths]), torch.tensor([best]), config
    )
    return result[0].tolist()


def test_equation_8_by_hand() -> None:
    """p = 3/4, shortest right 20, span 80: 22 is within the slack, 60 is half way, 99 near -1/2."""
    found = bonus([1.0, 1.0, 1.0, 0.0], [20, 22, 60, 10])
    expected = [0.375, 0.375, 0.75 * (0.5 - 40 / 80), 0.0]
    assert found == pytest.approx(expected)
    assert bonus([1.0, 1.0], [20, 99])[1] == pytest.approx(0.5 - 79 / 80)
    assert bonus([1.0, 1.0], [20, 23])[1] == pytest.approx(0.5 - 3 / 80)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 16])
def test_one_success_earns_no_bonus_but_two_do(size: int) -> None:
    """The gate p > 1 / G must hold for sizes whose reciprocal is not a binary fraction too."""
    lengths = list(range(10, 10 + size))
    assert bonus([1.0] + [0.0] * (size - 1), lengths) == [0.0] * size
    assert bonus([0.0] * size, lengths) == [0.0] * size
    two = bonus([1.0, 1.0] + [0.0] * (size - 2), lengths)
    assert two[0] == pytest.approx(0.5 * 2 / size)
    assert two[2:] == [0.0] * (size - 2)


def test_groups_far_below_the_best_of_their_source_are_not_shaped() -> None:
    rewards, lengths = [1.0, 1.0, 0.0, 0.0], [10, 50, 10, 10]
    assert bonus(rewards, lengths, best=0.61) == [0.0] * 4
    assert bonus(rewards, lengths, best=0.59)[0] == pytest.approx(0.25)


def test_a_partly_right_reward_is_not_shaped() -> None:
    assert bonus([1.0, 1.0, 0.9, 0.0], [50, 60, 5, 5])[2] == 0.0
    # and its short answer does not become the shortest right one
    assert bonus([1.0, 1.0, 0.9, 0.0], [50, 60, 5, 5])[0] > 0


def test_lengths_at_or_beyond_the_maximum_do_not_divide_by_zero() -> None:
    found = bonus([1.0, 1.0, 1.0], [100, 100, 150])
    assert found == pytest.approx([0.5, 0.5, -0.5])
    assert bonus([1.0, 1.0, 1.0], [150, 150, 200]) == pytest.approx([0.5, 0.5, -0.5])


@given(
    rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16),
    seed=st.integers(0, 999),
    coefficient=st.floats(0.0, 2.0),
)
@settings(max_examples=80, deadline=None)
def test_the_advantage_shift_of_a_right_answer_is_at_most_half_the_coefficient(
    rewards: list[float], seed: int, coefficient: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 120, (1, len(rewards)), generator=generator)
    rewards_2d = torch.tensor([rewards])
    config = spine.LengthRewardConfig(max_tokens=100, coefficient=coefficient)
    shaped = spine.length_reward(rewards_2d, lengths, NO_RECORD, config)
    p = rewards_2d.mean().item()
    assert (shaped.abs() <= coefficient * p / 2 + 1e-6).all()
    assert (shaped[rewards_2d == 0] == 0).all()
    shift = spine.maxrl_advantages(rewards_2d, shaped) - spine.maxrl_advantages(rewards_2d)
    assert (shift.abs() <= coefficient / 2 + 1e-4).all()


def test_a_shorter_right_answer_never_earns_less() -> None:
    lengths = list(range(5, 120, 5))
    found = bonus([1.0] * len(lengths), lengths)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0 > found[-1]


def test_above_two_thirds_the_longest_right_answers_get_a_negative_advantage() -> None:
    """12 of 16 right gives -0.17 .. +0.83, 8 of 16 gives +0.5 .. +1.5."""
    for num_right, low, high in [(8, 0.5, 1.5), (12, -1 / 6, 5 / 6)]:
        rewards = torch.tensor([[1.0] * num_right + [0.0] * (16 - num_right)])
        lengths = torch.tensor([[1] + [100] * 15])
        shaped = spine.length_reward(rewards, lengths, NO_RECORD, CONFIG)
        right = spine.maxrl_advantages(rewards, shaped)[rewards == 1]
        assert right.min().item() == pytest.approx(low, abs=1e-5)
        assert right.max().item() == pytest.approx(high, abs=1e-5)


def test_constants_outside_their_ranges_are_refused() -> None:
    for changes in ({"coefficient": -1.0}, {"max_tokens": 0}, {"slack_share": 1.5}):
        with pytest.raises(ConfigError, match="length reward"):
            spine.LengthRewardConfig(**changes)


def test_the_record_waits_for_enough_groups_then_keeps_the_best_running_mean() -> None:
    record = spine.SolveRateRecord(min_groups=4)
    for _ in range(3):
        record.observe("sums", 1.0)
    assert record.best("sums") == 0.0
    record.observe("sums", 1.0)
    assert record.best("sums") == pytest.approx(1.0)
    record.observe("sums", 0.0)
    assert record.best("sums") == pytest.approx(1.0)
    assert record.best("other") == 0.0
    record.forget("sums")
    assert record.best("sums") == 0.0


def test_the_running_mean_is_not_the_maximum_over_single_groups() -> None:
    ema, literal = spine.SolveRateRecord(min_groups=4), spine.SolveRateRecord(mode="literal")
    for rate in [0.2, 0.4, 1.0, 0.2, 0.3, 0.2]:
        ema.observe("x", rate)
        literal.observe("x", rate)
    assert literal.best("x") == 1.0
    assert 0.3 < ema.best("x") < 0.6


def test_a_restored_record_goes_on_as_the_original_would() -> None:
    rates = [0.1, 0.9, 0.4, 0.7, 1.0, 0.3]
    straight, first, resumed = (spine.SolveRateRecord(min_groups=2) for _ in range(3))
    for rate in rates:
        straight.observe("x", rate)
    for rate in rates[:3]:
        first.observe("x", rate)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for rate in rates[3:]:
        resumed.observe("x", rate)
    assert resumed.state_dict() == straight.state_dict()
