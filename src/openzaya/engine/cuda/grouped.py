"""The experts for many tokens: rows sorted by expert, one grouped product for each matrix.

Paper: II.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.engine.cuda.lang import Value, cdiv, constexpr, jit, load_fp32, tile, tl
from openzaya.engine.cuda.router import Choice
from openzaya.engine.cuda.weights import ExpertWeights
from openzaya.model.experts import can_group

GATED_CHANNELS = 2_048
"""Most channels of one program of the gate."""


def many_tokens(h_TD: Tensor, choice: Choice, weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return the experts' outputs [N, D], sorted by expert, and each token's row in them.

    Gates are not applied. In bf16 on a device nothing here waits for it: rows of skipped tokens are
    sorted last and lie behind the last group.
    """
    # Keys of one byte are sorted in one round.
    sorted_T, order_T = torch.sort(choice.expert_T.to(torch.uint8), stable=True)
    place_T = torch.empty_like(order_T)
    place_T[order_T] = torch.arange(len(order_T), device=h_TD.device)
    classes_E = torch.arange(weights.down_EDF.shape[0], dtype=torch.uint8, device=h_TD.device)
    ends_E = torch.searchsorted(sorted_T, classes_E, right=True, out_int32=True)
    x_TD = h_TD.index_select(0, order_T)
    if not (x_TD.is_cuda and can_group(x_TD, weights.gate_up_EGD, weights.down_EDF)):
        ends: list[int] = ends_E.tolist()
        counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        return weights.module(x_TD[: ends[-1]], counts), place_T
    both_TG = F.grouped_mm(x_TD, weights.gate_up_EGD.mT, offs=ends_E)
    return F.grouped_mm(gated(both_TG), weights.down_EDF.mT, offs=ends_E), place_T


@jit
def _gated(
    both: Value,  # [N, 2F]: gate, then input
    out: Value,  # [N, F], written
    F: Value,
    BF: constexpr,
) -> None:
    """Compute BF channels of silu(gate) * input of one row."""
    row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * BF + tl.arange(0, BF)
    gate = load_fp32(both + row * 2 * F + f, f < F)
    up = load_fp32(both + row * 2 * F + F + f, f < F)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * F + f, y.to(out.dtype.element_ty), mask=f < F)


def gated(both_NG: Tensor) -> Tensor:
    """Return silu of the first half of the channels times the second half."""
    rows, channels = both_NG.shape
    out_NF = both_NG.new_empty((rows, channels // 2))
    block = min(tile(channels // 2), GATED_CHANNELS)
    _gated[(rows, cdiv(channels // 2, block))](
        both_NG, out_NF, channels // 2, BF=block, num_warps=4
    )
    return out_NF
