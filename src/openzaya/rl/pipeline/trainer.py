"""One policy update: advantages, packing, replayed forward passes, DPPO, momentum-free Muon.

Paper: IV-B1, IV-C(a), IV-E.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.core.log import span
from openzaya.model.zaya import Zaya
from openzaya.optim import Optimizers
from openzaya.rl.config import Group, RLConfig
from openzaya.rl.pipeline.packer import PackedRollouts, pack_groups
from openzaya.rl.spine import (
    SolveRateRecord,
    length_reward,
    maxrl_advantages,
    policy_objective,
)
from openzaya.rl.spine.objective import health_figures

HEAD_ROWS = 8_192
"""Response tokens whose logits exist at the same time."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an update was like."""

    applied: bool
    grad_norm: float
    figures: dict[str, float]


class PolicyTrainer:
    """Owns the optimizer and the record of solve rates."""

    def __init__(self, model: Zaya, optimizers: Optimizers, config: RLConfig) -> None:
        """Keep the parts; p* starts empty."""
        self.model = model
        self.optimizers = optimizers
        self.config = config
        self.solve_rates = SolveRateRecord()

    def advantages(self, groups: Sequence[Group]) -> Tensor:
        """Return MaxRL advantages [Q, G], length bonus included."""
        rewards_QG = torch.tensor([group.rewards for group in groups])
        if self.config.length_reward.coefficient == 0.0:
            return maxrl_advantages(rewards_QG)
        lengths_QG = torch.tensor([[len(r.token_ids) for r in g.rollouts] for g in groups])
        best_Q = torch.tensor([self.solve_rates.best(g.prompt.source) for g in groups])
        bonus_QG = length_reward(rewards_QG, lengths_QG, best_Q, self.config.length_reward)
        return maxrl_advantages(rewards_QG, bonus_QG)

    def update(self, groups: Sequence[Group]) -> Update:
        """Train on groups with contrast; fewer than `min_groups` of them change nothing."""
        if len(groups) < self.config.min_groups:
            return Update(False, 0.0, {})
        packs = pack_groups(
            groups, self.advantages(groups), self.config.micro_tokens, self.model.device
        )
        self.optimizers.zero_grad()
        sums: Counter[str] = Counter()
        for packed in packs:
            with span("rl/forward_backward"):
                sums.update(self._forward_backward(packed))
        with span("rl/update"):
            norm = self.optimizers.step()
        return Update(True, norm, health_figures(dict(sums)) if sums else {})

    def _forward_backward(self, packed: PackedRollouts) -> dict[str, float]:
        logprobs_R = replayed_logprobs(self.model, packed, self.config.temperature)
        objective = policy_objective(
            logprobs_R,
            packed.logprobs_R,
            packed.advantages_R,
            self.config.dppo,
            num_rollouts=self.config.prompts_per_step * self.config.group_size,
            length_norm=self.config.length_norm,
        )
        objective.loss.backward()  # type: ignore[no-untyped-call]
        return objective.sums


def replayed_logprobs(model: Zaya, packed: PackedRollouts, temperature: float) -> Tensor:
    """Return the policy's log-probabilities [R] of the sampled tokens, in fp32.

    The recorded experts replace the router's choices; the gates stay live.

    Paper: IV-C(a).
    """
    trunk = model.trunk(packed.ids_T, lengths=packed.lengths, replay_TL=packed.replay_TL)
    hidden_RD = trunk.hidden_TD[packed.rows_R]
    parts = [
        _token_logprobs(model.head(rows_ND), targets_N, temperature)
        for rows_ND, targets_N in zip(
            hidden_RD.split(HEAD_ROWS), packed.targets_R.split(HEAD_ROWS), strict=True
        )
    ]
    return torch.cat(parts)


def _token_logprobs(logits_NV: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    scaled_NV = logits_NV.float() / temperature
    picked_N = scaled_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1)
    return picked_N - torch.logsumexp(scaled_NV, dim=-1)
