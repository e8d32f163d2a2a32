"""One policy update: advantages, packing, replayed forward passes, DPPO, momentum-free Muon.

Paper: IV-B1, IV-C(a), IV-E.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openzaya.core.errors import EngineError
from openzaya.core.log import span
from openzaya.model.balance import RouterBalancer
from openzaya.model.zaya import Zaya
from openzaya.optim import Optimizers
from openzaya.rl.config import Group, RLConfig
from openzaya.rl.pipeline.packer import PackedRollouts, pack_groups
from openzaya.rl.spine import (
    SolveRateRecord,
    grpo_advantages,
    length_reward,
    maxrl_advantages,
    policy_objective,
)
from openzaya.rl.spine.objective import health_figures

LOGITS_AT_ONCE = 1 << 25
"""Logits that exist at the same time: 134 MB in fp32."""
MAX_BROKEN = 3
"""Updates in a row whose gradient is not finite before the run stops."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an update was like."""

    applied: bool
    grad_norm: float
    figures: dict[str, float]


class PolicyTrainer:
    """Owns the record of solve rates and the routers' balance; drives the optimizer."""

    def __init__(self, model: Zaya, optimizers: Optimizers, config: RLConfig) -> None:
        """Keep the parts; p* starts empty."""
        self.model = model
        self.optimizers = optimizers
        self.config = config
        self.solve_rates = SolveRateRecord()
        self.balancer = RouterBalancer(model, config.balance)
        self.broken_in_a_row = 0

    def advantages(self, groups: Sequence[Group], step: int) -> Tensor:
        """Return the advantages [Q, G], length bonus included."""
        rewards_QG = torch.tensor([group.rewards for group in groups])
        if self.config.advantage == "grpo":
            return grpo_advantages(rewards_QG)
        config = self.config.length_reward_at(step)
        if config.coefficient == 0.0:
            return maxrl_advantages(rewards_QG)
        lengths_QG = torch.tensor([[len(r.token_ids) for r in g.rollouts] for g in groups])
        best_Q = torch.tensor([self.solve_rates.best(g.prompt.source) for g in groups])
        return maxrl_advantages(rewards_QG, length_reward(rewards_QG, lengths_QG, best_Q, config))

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Train on groups with contrast.

        Fewer than `min_groups` of them change nothing, and neither does a gradient that is zero
        everywhere or not finite: Muon's step has the same size whatever the gradient's. Raises
        EngineError when gradients stay not finite.
        """
        if len(groups) < self.config.min_groups:
            return Update(False, 0.0, {})
        advantages_QG = self.advantages(groups, step)
        packs = pack_groups(groups, advantages_QG, self.config.micro_tokens, self.model.device)
        self.optimizers.zero_grad()
        sums: Counter[str] = Counter()
        for packed in packs:
            with span("rl/forward_backward"):
                sums.update(self._forward_backward(packed))
        with span("rl/update"):
            norm = self.optimizers.grad_norm()
            applied = math.isfinite(norm) and norm > 0.0
            if applied:
                self.optimizers.step(grad_norm=norm)
        self._count_broken(norm)
        figures = health_figures(dict(sums)) if sums else {}
        return Update(applied, norm, {**figures, **self._balance(applied)})

    def _count_broken(self, norm: float) -> None:
        self.broken_in_a_row = 0 if math.isfinite(norm) else self.broken_in_a_row + 1
        if self.broken_in_a_row >= MAX_BROKEN:
            raise EngineError(
                f"the gradient norm was {norm} in {MAX_BROKEN} updates in a row; go on from the "
                "last checkpoint with a lower learning rate"
            )

    def _balance(self, applied: bool) -> dict[str, float]:
        """Return the routers' load; move their biases only where that was asked for."""
        entropy = self.balancer.load_entropy()
        if applied and self.config.balance is not None:
            self.balancer.step()
        self.balancer.forget()
        return {"rl/load_entropy": sum(entropy) / len(entropy)}

    def _forward_backward(self, packed: PackedRollouts) -> dict[str, float]:
        logprobs_N = self._replayed_logprobs(packed)
        objective = policy_objective(
            logprobs_N,
            packed.logprobs_N,
            packed.advantages_N,
            self.config.dppo,
            num_rollouts=self.config.prompts_per_step * self.config.group_size,
            length_norm=self.config.length_norm,
        )
        objective.loss.backward()  # type: ignore[no-untyped-call]
        self.balancer.observe(packed.replay_TL.long())
        return objective.sums

    def _replayed_logprobs(self, packed: PackedRollouts) -> Tensor:
        return replayed_logprobs(self.model, packed, self.config.temperature)


def replayed_logprobs(
    model: Zaya, packed: PackedRollouts, temperature: float, logits_at_once: int = LOGITS_AT_ONCE
) -> Tensor:
    """Return the policy's log-probabilities [N] of the sampled tokens, in fp32.

    The recorded experts replace the router's choices; the gates stay live. Temperature is the
    sampler's: both sides must be the same function of the logits. Logits are made in chunks, and
    made again in the backward pass when there is more than one chunk.

    Paper: IV-C(a).
    """
    trunk = model.trunk(packed.ids_T, lengths=packed.lengths, replay_TL=packed.replay_TL)
    hidden_ND = trunk.hidden_TD[packed.rows_N]
    rows = max(1, logits_at_once // model.config.vocab_size)
    if len(hidden_ND) <= rows:
        return token_logprobs(model, hidden_ND, packed.targets_N, temperature)
    parts = [
        checkpoint(token_logprobs, model, hidden, targets, temperature, use_reentrant=False)
        for hidden, targets in zip(
            torch.split(hidden_ND, rows), torch.split(packed.targets_N, rows), strict=True
        )
    ]
    return torch.cat(parts)


def token_logprobs(model: Zaya, hidden_ND: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities [N] of targets under the head at a temperature, in fp32."""
    scaled_NV = model.head(hidden_ND).float() / temperature
    picked_N = scaled_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1)
    return picked_N - torch.logsumexp(scaled_NV, dim=-1)
