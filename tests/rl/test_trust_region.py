"""Laws of DPPO's mask and loss, of SMTSN and of the objective that joins them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.rl import spine
from openzaya.rl.spine.objective import health_figures

CONFIG = spine.DppoConfig()
PROBS = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30)


def logs(*probs: float) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("advantage", "mu", "pi", "is_kept"),
    [
        (+1.0, 0.3, 0.45, False),  # rose too far and would rise more
        (+1.0, 0.3, 0.35, True),  # rose within the region
        (+1.0, 0.3, 0.05, True),  # fell far: the update pulls it back
        (-1.0, 0.3, 0.15, False),  # fell too far and would fall more
        (-1.0, 0.3, 0.25, True),  # fell within the region
        (-1.0, 0.3, 0.95, True),  # rose far: the update pulls it back
        (0.0, 0.3, 0.3, False),  # no advantage, no part
        (0.0, 0.3, 0.9, False),
    ],
)
def test_a_token_is_masked_only_when_it_moved_too_far_the_way_it_is_pushed(
    advantage: float, mu: float, pi: float, is_kept: bool
) -> None:
    keep = spine.dppo_keep_mask(logs(pi), logs(mu), torch.tensor([advantage]), CONFIG)
    assert keep.tolist() == [is_kept]


def test_a_move_of_exactly_delta_is_kept_and_the_two_thresholds_are_separate() -> None:
    quarter = spine.DppoConfig(delta_low=0.25, delta_high=0.25)
    # log(0.25) and log(0.5) are exact multiples of log(2) in double, so exp() gives them back
    mu, pi = logs(0.25, 0.5), logs(0.5, 0.25)
    assert (mu.exp() - pi.exp()).abs().tolist() == [0.25, 0.25]
    advantages = torch.tensor([1.0, -1.0])
    assert spine.dppo_keep_mask(pi, mu, advantages, quarter).tolist() == [True, True]
    low = spine.DppoConfig(delta_low=0.2, delta_high=0.3)
    assert spine.dppo_keep_mask(pi, mu, advantages, low).tolist() == [True, False]
    high = spine.DppoConfig(delta_low=0.3, delta_high=0.2)
    assert spine.dppo_keep_mask(pi, mu, advantages, high).tolist() == [False, True]


@given(probs=PROBS, seed=st.integers(0, 9999))
@settings(max_examples=50, deadline=None)
def test_the_mask_is_inert_on_policy_and_monotone_in_delta(probs: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mu = logs(*probs)
    pi = torch.rand(len(probs), generator=generator, dtype=torch.float64).clamp(min=1e-6).log()
    advantages = torch.randn(len(probs), generator=generator)
    assert spine.dppo_keep_mask(mu, mu, advantages, CONFIG).all()
    kept = [
        spine.dppo_keep_mask(
            pi, mu, advantages, spine.DppoConfig(delta_low=delta, delta_high=delta)
        )
        for delta in (0.01, 0.1, 0.5)
    ]
    assert not (kept[0] & ~kept[1]).any()
    assert not (kept[1] & ~kept[2]).any()


@given(probs=PROBS, seed=st.integers(0, 9999))
@settings(max_examples=50, deadline=None)
def test_on_policy_the_gradient_is_that_of_the_plain_policy_gradient(
    probs: list[float], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(len(probs), generator=generator, dtype=torch.float64)
    logprobs = logs(*probs).requires_grad_()
    losses = spine.dppo_token_losses(logprobs, logprobs.detach(), advantages, CONFIG)
    (grad,) = torch.autograd.grad(losses.sum(), logprobs)
    torch.testing.assert_close(grad, -advantages)


def test_off_policy_the_gradient_is_that_of_the_importance_ratio() -> None:
    mu, advantages = logs(0.3, 0.5, 0.02), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    pi = logs(0.25, 0.55, 0.06).requires_grad_()
    (grad,) = torch.autograd.grad(
        spine.dppo_token_losses(pi, mu, advantages, CONFIG).sum(), pi, retain_graph=True
    )
    (expected,) = torch.autograd.grad((-advantages * (pi - mu).exp()).sum(), pi)
    torch.testing.assert_close(grad, expected)


def test_a_masked_token_has_exactly_zero_loss_and_gradient_even_at_probability_zero() -> None:
    mu = logs(0.5, 0.5, 0.4)
    pi = torch.tensor([-math.inf, math.log(0.9), math.log(0.4)]).requires_grad_()
    advantages = torch.tensor([-1.0, 1.0, 1.0])
    losses = spine.dppo_token_losses(pi, mu, advantages, CONFIG)
    losses.sum().backward()
    assert losses[:2].tolist() == [0.0, 0.0]
    assert pi.grad is not None
    assert pi.grad[:2].tolist() == [0.0, 0.0]
    assert pi.grad[2].item() == pytest.approx(-1.0)


def test_the_ratio_is_capped_and_never_overflows() -> None:
    mu, pi = torch.tensor([-60.0, -5.0]), torch.tensor([-1.0, -1.0]).requires_grad_()
    config = spine.DppoConfig(ratio_cap=10.0)
    spine.dppo_token_losses(pi, mu, torch.tensor([-1.0, -1.0]), config).sum().backward()
    assert pi.grad is not None
    assert pi.grad.tolist() == [10.0, 10.0]


def test_permuting_tokens_permutes_losses() -> None:
    generator = torch.Generator().manual_seed(1)
    pi, mu = (-torch.rand(40, generator=generator) * 3 for _ in range(2))
    advantages = torch.randn(40, generator=generator)
    order = torch.randperm(40, generator=generator)
    losses = spine.dppo_token_losses(pi, mu, advantages, CONFIG)
    permuted = spine.dppo_token_losses(pi[order], mu[order], advantages[order], CONFIG)
    assert torch.equal(permuted, losses[order])


@pytest.mark.parametrize("changes", [{"delta_low": 0.0}, {"delta_high": 1.0}, {"ratio_cap": 0.5}])
def test_a_trust_region_that_masks_all_or_nothing_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="delta"):
        spine.DppoConfig(**changes)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    cuts=st.integers(1, 4),
    padding=st.integers(0, 5),
)
@settings(max_examples=50, deadline=None)
def test_smtsn_gradient_is_independent_of_padding_and_of_the_microbatch_split(
    lengths: list[int], cuts: int, padding: int
) -> None:
    """Packed whole, split into microbatches, and padded with NaN give one and the same gradient."""
    generator = torch.Generator().manual_seed(sum(lengths))
    weight = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    rows = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in lengths]
    num_rollouts, norm = 16, 40.0

    def grad_of(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, weight)[0]

    whole = grad_of(spine.smtsn((torch.cat(rows) @ weight).tanh(), num_rollouts, norm))
    by_hand = sum(((row @ weight).tanh().sum() / norm for row in rows), torch.zeros(()))
    torch.testing.assert_close(whole, grad_of(by_hand / num_rollouts))

    parts = [rows[i::cuts] for i in range(cuts)]
    split = sum(
        grad_of(spine.smtsn((torch.cat(part) @ weight).tanh(), num_rollouts, norm))
        for part in parts
        if part
    )
    torch.testing.assert_close(split, whole)

    width = max(lengths) + padding
    mask = torch.stack([torch.arange(width) < n for n in lengths])
    padded = torch.full((len(lengths), width), torch.nan, dtype=torch.float64)
    padded = padded.masked_scatter(mask, (torch.cat(rows) @ weight).tanh())
    loss = spine.smtsn(padded.flatten(), num_rollouts, norm, mask.flatten())
    torch.testing.assert_close(grad_of(loss), whole)


def test_smtsn_weighs_long_rollouts_by_their_sum_and_refuses_empty_divisors() -> None:
    assert spine.smtsn(torch.ones(10), 5, 4.0).item() == pytest.approx(0.5)
    for num_rollouts, norm in [(0, 1.0), (1, 0.0), (1, float("nan"))]:
        with pytest.raises(ConfigError, match="SMTSN"):
            spine.smtsn(torch.ones(1), num_rollouts, norm)


def test_the_objective_reports_what_the_mask_did() -> None:
    mu = logs(0.3, 0.3, 0.3, 0.3, 0.3).float()
    pi = logs(0.45, 0.35, 0.15, 0.25, 0.3).float()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0])
    result = spine.policy_objective(pi, mu, advantages, CONFIG, num_rollouts=4, length_norm=10.0)
    kept = -(0.35 / 0.3) * math.log(0.35) + (0.25 / 0.3) * math.log(0.25)
    assert result.loss.item() == pytest.approx(kept / 40, rel=1e-5)
    figures = health_figures(result.sums)
    assert figures["rl/masked_share_positive"] == 0.5
    assert figures["rl/masked_share_negative"] == 0.5
    assert figures["rl/mean_abs_prob_change"] == pytest.approx((0.15 + 0.05 + 0.15 + 0.05) / 5)
    k3 = [r - 1 - math.log(r) for r in (1.5, 7 / 6, 0.5, 5 / 6, 1.0)]
    assert figures["rl/mismatch_kl"] == pytest.approx(sum(k3) / 5, rel=1e-4)
    assert figures["rl/mismatch_kl_masked"] == pytest.approx((k3[0] + k3[2]) / 2, rel=1e-4)
    assert figures["rl/mismatch_kl_kept"] == pytest.approx((k3[1] + k3[3]) / 3, rel=1e-4)
    assert figures["rl/ratio_over_cap_share"] == 0.0
    on_policy = spine.policy_objective(mu, mu, advantages, CONFIG, num_rollouts=4, length_norm=1.0)
    figures = health_figures(on_policy.sums)
    assert figures["rl/ratio_ess"] == pytest.approx(1.0)
    assert figures["rl/mismatch_kl"] == 0.0
    assert figures["rl/entropy_estimate"] == pytest.approx(-math.log(0.3), rel=1e-6)
