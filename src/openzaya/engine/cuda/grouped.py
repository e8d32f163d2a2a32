"""The experts for many tokens: rows sorted by expert, one grouped product for each matrix.

Paper: II.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.engine.cuda.router import Choice
from openzaya.engine.cuda.weights import ExpertWeights
from openzaya.model.experts import can_group


def many_tokens(h_TD: Tensor, choice: Choice, weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return the experts' outputs [N, D], sorted by expert, and each token's row in them.

    The row is negative for a skipped token; gates are not applied. In bf16 on a device nothing here
    waits for it: rows of skipped tokens are sorted last and lie behind the last group.
    """
    chosen_T = choice.expert_T.long()
    num_experts = weights.down_EDF.shape[0]
    order_T = torch.argsort(chosen_T, stable=True)
    place_T = torch.empty_like(order_T)
    place_T[order_T] = torch.arange(len(order_T), device=h_TD.device)
    place_T = place_T.masked_fill(chosen_T == num_experts, -1)
    classes_E = torch.arange(num_experts, device=h_TD.device)
    counts_E = (chosen_T.unsqueeze(-1) == classes_E).sum(dim=0)
    x_TD = h_TD.index_select(0, order_T)
    if not (x_TD.is_cuda and can_group(x_TD, weights.gate_up_EGD, weights.down_EDF)):
        counts: list[int] = counts_E.tolist()
        return weights.module(x_TD[: sum(counts)], counts), place_T
    ends_E = counts_E.cumsum(0).to(torch.int32)
    both_TG = F.grouped_mm(x_TD, weights.gate_up_EGD.mT, offs=ends_E)
    gate_TF, up_TF = both_TG.chunk(2, dim=-1)
    hidden_TF = F.silu(gate_TF).mul_(up_TF)
    return F.grouped_mm(hidden_TF, weights.down_EDF.mT, offs=ends_E), place_T
