"""The spine against the paper's equations written as plain loops over Python's floats."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openzaya.rl import spine

LOGPROBS = st.floats(-12.0, -1e-4)
REWARDS = st.one_of(
    st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0, allow_subnormal=False, width=32)
)
DELTAS = st.floats(0.01, 0.9)


@dataclass(frozen=True)
class Plain:
    """One rollout: what the sampler and the policy say of its tokens, and its advantage."""

    sampler: list[float]
    policy: list[float]
    advantage: float


@st.composite
def groups(draw: st.DrawFn) -> list[list[float]]:
    """Draw rewards [Q, G]; a group may be all right, all wrong, or anything."""
    size = draw(st.integers(2, 8))
    group = st.one_of(
        st.just([0.0] * size),
        st.just([1.0] * size),
        st.lists(REWARDS, min_size=size, max_size=size),
    )
    return draw(st.lists(group, min_size=1, max_size=4))


@st.composite
def rollouts(draw: st.DrawFn) -> list[Plain]:
    """Draw rollouts of 0 to 6 tokens."""
    made = []
    for length in draw(st.lists(st.integers(0, 6), min_size=1, max_size=6)):
        sides = st.lists(LOGPROBS, min_size=length, max_size=length)
        advantage = draw(st.one_of(st.just(0.0), st.floats(-1.0, 15.0)))
        made.append(Plain(draw(sides), draw(sides), advantage))
    return made


def plain_maxrl(rewards: list[float], bonus: list[float]) -> list[float]:
    """Return (r + bonus - mean) / mean; a group that never succeeds gets nothing."""
    mean = sum(rewards) / len(rewards)
    if mean == 0:
        return [0.0] * len(rewards)
    return [(r + b - mean) / mean for r, b in zip(rewards, bonus, strict=True)]


def plain_length_reward(
    rewards: list[float], lengths: list[int], best: float, config: spine.LengthRewardConfig
) -> list[float]:
    """Return c p m lambda~ by equations 8 to 10."""
    p = sum(rewards) / len(rewards)
    right = [length for r, length in zip(rewards, lengths, strict=True) if r == 1]
    found = []
    for r, length in zip(rewards, lengths, strict=True):
        if r != 1 or sum(rewards) == 1 or p <= best - config.accuracy_slack:
            found.append(0.0)
        elif length <= min(right) + config.slack_share * config.max_tokens:
            found.append(config.coefficient * p / 2)
        else:
            share = (length - min(right)) / max(1, config.max_tokens - min(right))
            found.append(config.coefficient * p * (0.5 - min(1.0, max(0.0, share))))
    return found


def plain_dppo(
    made: list[Plain], config: spine.DppoConfig, num_rollouts: int, length_norm: float
) -> tuple[float, list[float]]:
    """Return the loss, and its gradient by the policy's log-probability of each token."""
    loss, gradient = 0.0, []
    for rollout in made:
        total = 0.0
        for mu, pi in zip(rollout.sampler, rollout.policy, strict=True):
            moved = math.exp(pi) - math.exp(mu)
            up = rollout.advantage > 0
            too_far = moved > config.delta_high if up else moved < -config.delta_low
            ratio = min(config.ratio_cap, math.exp(pi - mu))
            weight = 0.0 if too_far else -rollout.advantage * ratio
            total += weight * pi
            gradient.append(weight / (num_rollouts * length_norm))
        loss += total / length_norm
    return loss / num_rollouts, gradient


def flat(parts: Iterable[list[float]]) -> torch.Tensor:
    """Return the parts, one behind the other."""
    return torch.tensor(list(chain.from_iterable(parts)), dtype=torch.float64)


@given(rewards=groups(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_maxrl_is_its_plain_form_with_and_without_a_bonus(
    rewards: list[list[float]], seed: int
) -> None:
    """All right and all wrong groups included: both get nothing without a bonus."""
    bonus = torch.rand(len(rewards), len(rewards[0]), generator=torch.Generator().manual_seed(seed))
    made = torch.tensor(rewards, dtype=torch.float64)
    nothing = [0.0] * len(rewards[0])
    found = spine.maxrl_advantages(made)
    expected = [plain_maxrl(group, nothing) for group in rewards]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    found = spine.maxrl_advantages(made, bonus.double())
    expected = [plain_maxrl(g, b) for g, b in zip(rewards, bonus.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(
    rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8),
    data=st.data(),
    best=st.floats(0.0, 1.0),
    coefficient=st.floats(0.0, 2.0),
)
@settings(max_examples=60, deadline=None)
def test_the_length_reward_is_its_plain_form(
    rewards: list[float], data: st.DataObject, best: float, coefficient: float
) -> None:
    """Lengths from 0 to beyond the maximum."""
    lengths = data.draw(st.lists(st.integers(0, 130), min_size=len(rewards), max_size=len(rewards)))
    config = spine.LengthRewardConfig(max_tokens=100, coefficient=coefficient)
    p = sum(rewards) / len(rewards)
    assume(abs(p - (best - config.accuracy_slack)) > 1e-9)
    found = spine.length_reward(
        torch.tensor([rewards], dtype=torch.float64),
        torch.tensor([lengths]),
        torch.tensor([best], dtype=torch.float64),
        config,
    )
    expected = plain_length_reward(rewards, lengths, best, config)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)


@given(made=rollouts(), low=DELTAS, high=DELTAS, cap=st.sampled_from([1.0, 5.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_the_objective_and_its_gradient_are_their_plain_forms(
    made: list[Plain], low: float, high: float, cap: float
) -> None:
    """Masked tokens, rollouts without tokens and rollouts without advantage included."""
    config = spine.DppoConfig(delta_low=low, delta_high=high, ratio_cap=cap)
    pi = flat(r.policy for r in made).requires_grad_()
    mu = flat(r.sampler for r in made)
    moved = pi.detach().exp() - mu.exp()
    assume(not bool(((moved - high).abs() < 1e-9).any() | ((moved + low).abs() < 1e-9).any()))
    advantages = flat([r.advantage] * len(r.policy) for r in made)
    result = spine.policy_objective(pi, mu, advantages, config, num_rollouts=16, length_norm=6.0)
    result.loss.backward()  # type: ignore[no-untyped-call]
    loss, gradient = plain_dppo(made, config, 16, 6.0)
    assert result.loss.item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert pi.grad is not None
    assert pi.grad.tolist() == pytest.approx(gradient, rel=1e-9, abs=1e-12)
