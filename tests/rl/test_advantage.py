"""Laws of the group advantages and of dynamic sampling."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.rl import spine


@pytest.mark.parametrize("num_right", range(17))
def test_maxrl_matches_the_closed_form_for_binary_rewards(num_right: int) -> None:
    """k of 16 right: right rollouts get (1 - p) / p, wrong ones -1, and k = 0 gets nothing."""
    rewards = torch.tensor([[1.0] * num_right + [0.0] * (16 - num_right)])
    p = num_right / 16
    right, wrong = ((1 - p) / p, -1.0) if num_right else (0.0, 0.0)
    torch.testing.assert_close(
        spine.maxrl_advantages(rewards), torch.where(rewards > 0, right, wrong)
    )


@pytest.mark.parametrize(("p", "size"), [(0.25, 4), (0.5, 2), (0.05, 8), (0.9, 5)])
def test_maxrl_expectation_is_the_truncation_of_log_p_of_order_group_size_minus_one(
    p: float, size: int
) -> None:
    """Exact expectation over all outcomes of a Bernoulli policy; 2.3125 grad p at p=.25, G=4."""
    theta = torch.tensor(p, dtype=torch.float64).logit().requires_grad_()
    prob = theta.sigmoid()
    expected = torch.zeros((), dtype=torch.float64)
    for outcome in product([0.0, 1.0], repeat=size):
        rewards = torch.tensor([outcome], dtype=torch.float64)
        chance = torch.prod(rewards * p + (1 - rewards) * (1 - p))
        logprobs = torch.where(rewards > 0, prob.log(), (1 - prob).log())
        surrogate = (spine.maxrl_advantages(rewards) * logprobs).mean()
        (grad,) = torch.autograd.grad(surrogate, theta, retain_graph=True)
        expected += chance * grad
    (grad_p,) = torch.autograd.grad(prob, theta)
    closed_form = sum((1 - p) ** (k - 1) for k in range(1, size))
    assert expected / grad_p == pytest.approx(closed_form, rel=1e-12)
    if (p, size) == (0.25, 4):
        assert closed_form == 2.3125


def test_maxrl_keeps_the_raw_mean_below_and_lets_the_baseline_be_chosen() -> None:
    """The bonus moves the numerator only; "shaped" centers it, "raw" leaves the sum non-zero."""
    rewards = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    bonus = torch.tensor([[0.2, -0.1, 0.0, 0.0]])
    raw = spine.maxrl_advantages(rewards, bonus)
    torch.testing.assert_close(raw, torch.tensor([[1.4, 0.8, -1.0, -1.0]]))
    shaped = spine.maxrl_advantages(rewards, bonus, baseline="shaped")
    torch.testing.assert_close(shaped, raw - 0.05)
    assert shaped.sum().item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "rewards", [[[1.0]], [[0.5, -0.1]], [[float("nan"), 1.0]], [[float("inf"), 1.0]], [1.0, 0.0]]
)
def test_maxrl_refuses_groups_of_one_and_rewards_without_meaning(rewards: list[object]) -> None:
    with pytest.raises(ConfigError):
        spine.maxrl_advantages(torch.tensor(rewards))


@given(level=st.floats(0.0, 1.0, width=32), size=st.integers(2, 32))
@settings(max_examples=40, deadline=None)
def test_a_uniform_group_has_exactly_zero_advantage(level: float, size: int) -> None:
    """Rounding of the mean must not leak through the division by epsilon."""
    rewards = torch.full((1, size), level)
    assert torch.equal(spine.grpo_advantages(rewards), torch.zeros(1, size))
    assert torch.equal(spine.maxrl_advantages(rewards), torch.zeros(1, size))


def test_grpo_divides_by_the_standard_deviation_that_was_asked_for() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    biased_std, unbiased_std = 0.1875**0.5, 0.5
    for unbiased, std in [(True, unbiased_std), (False, biased_std)]:
        expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / (std + 1e-6)
        torch.testing.assert_close(spine.grpo_advantages(rewards, unbiased=unbiased), expected)
    with pytest.raises(ConfigError, match="group_size"):
        spine.grpo_advantages(torch.ones(3, 1))


def test_only_groups_with_contrast_are_informative() -> None:
    rewards = torch.tensor(
        [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.3], [0.3, 0.3, 0.31]]
    )
    assert spine.informative_groups(rewards).tolist() == [False, False, True, False, True]
