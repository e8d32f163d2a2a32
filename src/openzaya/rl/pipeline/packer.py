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


@dataclass(frozen=True, slots=True)
class PackedRollouts:
    """One microbatch. T input tokens; R of them predict a response token."""

    ids_T: Tensor
    lengths: list[int]
    replay_TL: Tensor
    """Experts recorded by the sampler for every input token."""
    rows_R: Tensor
    """Input positions whose next token is a response token."""
    targets_R: Tensor
    logprobs_R: Tensor
    """Recorded by the sampler."""
    advantages_R: Tensor


def pack_groups(
    groups: Sequence[Group],
    advantages_QG: Tensor,
    micro_tokens: int,
    device: torch.device,
) -> list[PackedRollouts]:
    """Pack every rollout whose advantage is not zero.

    The inputs are prompt and response without its last token, which is only ever a target; so
    every input has a recorded route.
    """
    chosen: list[tuple[list[int], Rollout, float]] = []
    for q, group in enumerate(groups):
        for g, rollout in enumerate(group.rollouts):
            advantage = float(advantages_QG[q, g])
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
    experts = np.concatenate([rollout.experts for _, rollout, _ in members])
    return PackedRollouts(
        ids_T=torch.tensor(ids, device=device),
        lengths=lengths,
        replay_TL=torch.from_numpy(experts.astype(np.int64)).to(device),
        rows_R=torch.from_numpy(np.concatenate(rows)).to(device),
        targets_R=torch.tensor(targets, device=device),
        logprobs_R=torch.tensor(logprobs, dtype=torch.float32, device=device),
        advantages_R=torch.from_numpy(np.concatenate(advantages)).to(device),
    )
