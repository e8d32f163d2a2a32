"""One policy update: what it moves, what it must not move, and how it is split."""

import math
from typing import Any

import pytest
import tiny_rl
import torch
from tiny_rl import group

from openzaya.core.errors import ConfigError, EngineError
from openzaya.model.balance import BalanceConfig
from openzaya.model.zaya import Zaya
from openzaya.optim import build_optimizer
from openzaya.rl.config import Group
from openzaya.rl.pipeline.packer import pack_groups
from openzaya.rl.pipeline.trainer import PolicyTrainer, replayed_logprobs
from openzaya.rl.spine import DppoConfig, LengthRewardConfig, grpo_advantages, maxrl_advantages

CPU = torch.device("cpu")


def trainer(seed: int = 0, **changes: Any) -> tuple[Zaya, PolicyTrainer]:
    model = tiny_rl.model(seed)
    config = tiny_rl.config(**changes)
    return model, PolicyTrainer(model, build_optimizer(model, config.optim), config)


def on_policy(model: Zaya, made: Group) -> Group:
    """Return the group with the log-probabilities that the model itself gives its tokens."""
    rows = torch.arange(1.0, len(made.rollouts) + 1).unsqueeze(0)
    (packed,) = pack_groups([made], rows, 1000, CPU)
    with torch.no_grad():
        values = replayed_logprobs(model, packed, 1.0)
    for g in range(len(made.rollouts)):
        own = values[packed.advantages_N == g + 1].tolist()
        made = tiny_rl.with_rollout(made, g, logprobs=own)
    return made


def logprob_sums(model: Zaya, made: Group) -> list[float]:
    return [sum(r.logprobs) for r in on_policy(model, made).rollouts]


def test_an_update_makes_right_rollouts_likelier_and_wrong_ones_less_likely() -> None:
    model, made_trainer = trainer()
    made = on_policy(model, group([1.0, 0.0, 0.0, 1.0], lengths=[3, 4, 5, 2]))
    before = logprob_sums(model, made)
    update = made_trainer.update([made], 0)
    after = logprob_sums(model, made)
    assert update.applied
    assert update.grad_norm > 0
    moved = [b - a for a, b in zip(before, after, strict=True)]
    assert moved[0] > 0 < moved[3]
    assert moved[1] < 0 > moved[2]
    figures = update.figures
    assert figures["rl/masked_share_positive"] == figures["rl/masked_share_negative"] == 0.0
    assert figures["rl/mismatch_kl"] < 1e-9
    assert 0 < figures["rl/load_entropy"] <= 1


def test_the_gradient_is_that_of_the_formula_written_out_and_does_not_depend_on_packing() -> None:
    """Sum over rollouts of A * log pi over N * L_norm, however the rollouts are packed."""
    made = group([1.0, 0.0, 0.0, 1.0], lengths=[3, 4, 5, 2])
    grads = []
    for micro_tokens in (7, 9, 1000):
        model, made_trainer = trainer(micro_tokens=micro_tokens, prompts_per_step=3)
        made_trainer.optimizers.step = lambda *_a, **_k: 0.0  # type: ignore[method-assign]
        made_trainer.update([on_policy(model, made)], 0)
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    model, _ = trainer()
    advantages = maxrl_advantages(torch.tensor([made.rewards]))
    total = torch.zeros(())
    for rollout, advantage in zip(made.rollouts, advantages[0], strict=True):
        ids = torch.tensor([*made.prompt_ids, *rollout.token_ids[:-1]])
        replay = torch.from_numpy(rollout.experts)
        hidden = model.trunk(ids, replay_TL=replay).hidden_TD[len(made.prompt_ids) - 1 :]
        logprobs = model.head(hidden).log_softmax(-1)
        picked = logprobs[torch.arange(len(rollout.token_ids)), torch.tensor(rollout.token_ids)]
        total = total - advantage * picked.sum()
    (total / (12 * 6.0)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        for grad in grads:
            torch.testing.assert_close(grad[name], parameter.grad, atol=2e-6, rtol=2e-4)


def test_too_few_groups_leave_every_weight_as_it_was() -> None:
    model, made_trainer = trainer(min_groups=2)
    before = {n: p.clone() for n, p in model.named_parameters()}
    update = made_trainer.update([group([0.0, 1.0])], 0)
    assert not update.applied
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_batch_whose_tokens_are_all_masked_leaves_every_weight_as_it_was() -> None:
    """Muon would move by its full step on any direction, so a zero gradient must not step."""
    model, made_trainer = trainer(dppo=DppoConfig(delta_low=1e-5, delta_high=1e-5))
    made = group([1.0, 0.0])
    made = tiny_rl.with_rollout(made, 0, logprobs=[-30.0] * 3)
    made = tiny_rl.with_rollout(made, 1, logprobs=[-0.01] * 3)
    before = {n: p.clone() for n, p in model.named_parameters()}
    update = made_trainer.update([made], 0)
    assert update.figures["rl/masked_share_positive"] == 1.0
    assert update.figures["rl/masked_share_negative"] == 1.0
    assert not update.applied
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_gradients_that_are_not_finite_change_nothing_and_stop_the_run_when_they_stay() -> None:
    model, made_trainer = trainer()
    broken = group([1.0, 0.0])
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    before = {n: p.clone() for n, p in model.named_parameters()}
    for _ in range(2):
        assert not made_trainer.update([broken], 0).applied
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0))
    with pytest.raises(EngineError, match="learning rate"):
        made_trainer.update([broken], 0)


def test_balancing_biases_are_frozen_unless_asked_for() -> None:
    for balance, moves in [(None, False), (BalanceConfig(learning_rate=0.1), True)]:
        model, made_trainer = trainer(balance=balance)
        before = [b.clone() for b in model.router_biases()]
        made_trainer.update([on_policy(model, group([1.0, 0.0], lengths=[3, 4]))], 0)
        same = [torch.equal(a, b) for a, b in zip(before, model.router_biases(), strict=True)]
        assert not all(same) if moves else all(same)
        assert not made_trainer.balancer.counts_LX.any()


def test_replayed_choices_cannot_be_balanced_by_distance() -> None:
    with pytest.raises(ConfigError, match="choices are replayed"):
        trainer(balance=BalanceConfig(method="distance"))


def test_advantages_follow_the_configured_rule_and_the_length_ramp() -> None:
    groups = [group([1.0, 1.0, 0.0, 0.0], lengths=[1, 100, 5, 5])]
    rewards = torch.tensor([groups[0].rewards])
    _, plain = trainer()
    assert torch.equal(plain.advantages(groups, 0), maxrl_advantages(rewards))
    _, grpo = trainer(advantage="grpo")
    assert torch.equal(grpo.advantages(groups, 0), grpo_advantages(rewards))
    length = LengthRewardConfig(coefficient=1.0, max_tokens=100)
    _, ramped = trainer(length_reward=length, length_ramp_steps=10, max_response_tokens=100)
    for step, share in [(0, 0.1), (5, 0.55), (10, 1.0), (99, 1.0)]:
        shift = ramped.advantages(groups, step) - maxrl_advantages(rewards)
        expected = torch.tensor([[0.5, -0.5, 0.0, 0.0]]) * share
        torch.testing.assert_close(shift, expected)
    ramped.solve_rates.mode = "literal"
    ramped.solve_rates.observe("src", 1.0)
    assert torch.equal(ramped.advantages(groups, 99), maxrl_advantages(rewards))
