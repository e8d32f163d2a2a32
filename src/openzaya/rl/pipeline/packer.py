"""Rollouts to packed microbatches: whole rollouts, best fit into a token budget.

Paper: IV-C(c).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openzaya.data.packing import pack
from openzaya.rl.config import Group, Rollout
from openzaya.rl.router_replay import replay_tensor


@dataclass(frozen=True, slots=True)
class PackedRollouts:
    """One microbatch. T input tokens; N of them predict a response token."""

    ids_T: Tensor
    lengths: list[int]
    """Input tokens of each rollout."""
    replay_TL: Tensor
    """Experts recorded by the sampler for every input token."""
    rows_N: Tensor
    """Input positions whose next token is a response token."""
    targets_N: Tensor
    """The response tokens."""
    logprobs_N: Tensor
    """Recorded by the sampler."""
    advantages_N: Tensor
    """The rollout's advantage at each of its tokens."""

    @property
    def mask_T(self) -> Tensor:
        """True where the next token is a response token."""
        response_T = torch.zeros_like(self.ids_T, dtype=torch.bool)
        response_T[self.rows_N] = True
        return response_T


def pack_groups(
    groups: Sequence[Group],
    advantages_QG: Tensor,
    micro_tokens: int,
    device: torch.device,
) -> list[PackedRollouts]:
    """Pack every rollout whose advantage is not zero; longest first, each where it fits best.

    The inputs are prompt and response without its last token, which is only ever a target; so
    every input has a recorded route. A rollout longer than the budget gets a larger microbatch
    for all: nothing is cut.
    """
    chosen: list[tuple[list[int], Rollout, float]] = []
    for group, row in zip(groups, advantages_QG.tolist(), strict=True):
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            if advantage != 0.0:
                chosen.append((group.prompt_ids, rollout, advantage))
    if not chosen:
        return []
    lengths = [len(prompt) + len(rollout.token_ids) - 1 for prompt, rollout, _ in chosen]
    bins = pack(lengths, max(micro_tokens, max(lengths)))
    return [_pack([chosen[i] for i in members], device) for members in bins]


def _pack(
    members: Sequence[tuple[list[int], Rollout, float]], device: torch.device
) -> PackedRollouts:
    ids: list[int] = []
    rows, targets, logprobs, advantages, lengths = [], [], [], [], []
    for prompt, rollout, advantage in members:
        start = len(ids)
        ids.extend(prompt)
        ids.extend(rollout.token_ids[:-1])
        lengths.append(len(ids) - start)
        first = start + len(prompt) - 1
        rows.append(np.arange(first, first + len(rollout.token_ids)))
        targets.extend(rollout.token_ids)
        logprobs.extend(rollout.logprobs)
        advantages.append(np.full(len(rollout.token_ids), advantage, dtype=np.float32))
    return PackedRollouts(
        ids_T=torch.tensor(ids, device=device),
        lengths=lengths,
        replay_TL=replay_tensor([rollout.experts for _, rollout, _ in members], device),
        rows_N=torch.from_numpy(np.concatenate(rows)).to(device),
        targets_N=torch.tensor(targets, device=device),
        logprobs_N=torch.tensor(logprobs, dtype=torch.float32, device=device),
        advantages_N=torch.from_numpy(np.concatenate(advantages)).to(device),
    )
