"""Cross-entropy in fp32 without ever holding the logits of all tokens.

Letters: N predictions, M some of them (those that count; one chunk), V vocabulary, D model width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.fused.compiling import region
from openzaya.model.fused.native.library import call, reason_against_native
from openzaya.model.rows import take_rows

CHUNK_ELEMENTS = 1 << 29
"""Logits that exist at the same time on an accelerator."""
CHUNK_ELEMENTS_CPU = 1 << 25
"""The same on a CPU, where a chunk should not be much of a step's memory."""
CACHED_ELEMENTS_CPU = 1 << 20
"""Logits that a CPU still finds in its caches."""
TILE_ELEMENTS = 1 << 18
"""Logits that a CPU turns into gradients at a time, inside its second-level cache."""


def chunked_cross_entropy(
    hidden_ND: Tensor,
    head_weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    kept_M: Tensor | None = None,
    chunk: int | None = None,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of next-token losses and every token's loss (nats, no gradient).

    Logits and losses are fp32 whatever the inputs are. Predictions of weight 0 cost nothing and
    get loss 0; `kept_M` names the others and spares looking for them, which waits for the device.
    `chunk` predictions have logits at the same time; by default as many as a bounded memory
    holds. `z_loss` adds that multiple of the squared log-normalizer to the sum, not to the
    per-token losses.

    Paper: IV-D (the LM head and cross-entropy are in the fp32 set).
    """
    if kept_M is None:
        # In SFT often fewer than half of all predictions count.
        kept_M = weights_N.nonzero().squeeze(1)
    if chunk is None:
        vocabulary, width = head_weight_VD.shape
        chunk = chunk_rows(vocabulary, width, hidden_ND.device)
    grads_on = torch.is_grad_enabled()
    loss, nll_M = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        take_rows(hidden_ND, kept_M),
        head_weight_VD,
        targets_N[kept_M],
        weights_N[kept_M],
        chunk,
        z_loss,
        # Told from here, as inside the function gradients are always off.
        (grads_on and hidden_ND.requires_grad, grads_on and head_weight_VD.requires_grad),
    )
    nll_N = torch.zeros_like(weights_N).index_copy(0, kept_M, nll_M)
    return loss, nll_N


def chunk_rows(vocabulary: int, width: int, device: torch.device) -> int:
    """Return how many predictions should have logits at the same time.

    A product of M rows reads the head anew for every M, and M logits anew for every `width`: on a
    CPU wide heads want more rows than narrow ones, which gain more from logits in the cache.
    """
    if device.type != "cpu":
        return max(1, CHUNK_ELEMENTS // vocabulary)
    rows = max(2 * width, CACHED_ELEMENTS_CPU // vocabulary)
    return max(1, min(rows, CHUNK_ELEMENTS_CPU // vocabulary))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients chunk by chunk in the forward pass, so no logits are kept.

    `wants` says which are needed, hidden rows' and the head's; the first come with the second.
    """

    @staticmethod
    def forward(  # noqa: PLR0913 - what `apply` is given
        ctx: Any,
        hidden_ND: Tensor,
        head_weight_VD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        chunk: int,
        z_loss: float,
        wants: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        exact = has_wide_product(hidden_ND, head_weight_VD)
        head_VD = head_weight_VD if exact else head_weight_VD.float()
        hidden_grad_ND = torch.empty_like(hidden_ND) if any(wants) else None
        head_grad_VD: Tensor | None = None
        nll_N = torch.empty_like(weights_N)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            x_MD = hidden_ND[part].to(head_VD.dtype)
            logits_MV = wide_product(x_MD, head_VD.t()) if exact else F.linear(x_MD, head_VD)
            nll_N[part], loss, grad_MV = chunk_loss(
                logits_MV, targets_N[part], weights_N[part], z_loss, head_VD.dtype
            )
            total += loss
            del logits_MV  # before the next chunk's exist, which then get the same memory
            if hidden_grad_ND is None:
                continue
            hidden_grad_ND[part] = (grad_MV @ head_VD).to(hidden_ND.dtype)
            if not wants[1]:
                continue
            if exact:
                more_VD = wide_product(grad_MV.t(), x_MD)
                head_grad_VD = more_VD if head_grad_VD is None else head_grad_VD.add_(more_VD)
            elif head_grad_VD is None:
                head_grad_VD = grad_MV.t() @ x_MD
            else:
                head_grad_VD.addmm_(grad_MV.t(), x_MD)
            del grad_MV
        if wants[1] and head_grad_VD is None:
            head_grad_VD = torch.zeros_like(head_VD)
        ctx.weight_dtype = head_weight_VD.dtype
        ctx.save_for_backward(hidden_grad_ND, head_grad_VD)
        ctx.mark_non_differentiable(nll_N)
        return total, nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad_ND, head_grad_VD = ctx.saved_tensors
        scale = grads[0]
        if scale.device.type != "cpu" or float(scale) != 1.0:  # the usual 1 spares two passes
            hidden_grad_ND = hidden_grad_ND * scale
            head_grad_VD = None if head_grad_VD is None else head_grad_VD * scale
        if head_grad_VD is not None:
            head_grad_VD = head_grad_VD.to(ctx.weight_dtype)
        return hidden_grad_ND, head_grad_VD, None, None, None, None, None


def has_wide_product(*tensors: Tensor) -> bool:
    """Tell whether bf16 factors can be multiplied into an fp32 result, exact but for the sums."""
    fits = all(x.dtype is torch.bfloat16 and x.device.type == "cuda" for x in tensors)
    return fits and hasattr(torch.ops.aten.mm, "dtype")


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the fp32 product of two bf16 matrices."""
    out: Tensor = torch.ops.aten.mm.dtype(a, b, torch.float32)
    return out


def chunk_loss(
    logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, z_loss: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's losses, their weighted sum and the gradient of the logits.

    The logits are overwritten on a CPU. The gradient is rounded to `dtype`, in which it is
    multiplied.

    Deviation: D-041.
    """
    if logits_MV.device.type != "cpu" or dtype != torch.float32:
        return chunk_loss_at_once(logits_MV, targets_M, weights_M, z_loss, dtype)
    in_place = (
        tiled_loss if reason_against_native(weights_M.dtype, weights_M.device) else native_loss
    )
    return *in_place(logits_MV, targets_M, weights_M, z_loss), logits_MV


def native_loss(
    logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Return losses and their sum; our C++ turns the logits into their gradient."""
    lowest, highest = (int(x) for x in targets_M.aminmax())
    if lowest < 0 or highest >= logits_MV.shape[1]:
        raise IndexError(
            f"targets are {lowest} to {highest}, expected 0 to {logits_MV.shape[1] - 1}"
        )
    nll_M, total = torch.empty_like(weights_M), torch.empty((), dtype=torch.float32)
    given = logits_MV, targets_M, weights_M
    call("cross_entropy", *given, *logits_MV.shape, float(z_loss), nll_M, total)
    return nll_M, total


def tiled_loss(
    logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Do the same without our C++."""
    rows = max(1, TILE_ELEMENTS // logits_MV.shape[1])
    nll_M = torch.empty_like(weights_M)
    total = torch.zeros((), dtype=torch.float32)
    for tile_RV, target_R, weight_R, nll_R in zip(
        *(torch.split(x, rows) for x in (logits_MV, targets_M, weights_M, nll_M)), strict=True
    ):
        index_R1 = target_R.unsqueeze(1)
        picked_R = tile_RV.gather(1, index_R1).squeeze(1)
        peak_R1 = tile_RV.amax(dim=-1, keepdim=True)
        sum_R = tile_RV.sub_(peak_R1).exp_().sum(dim=-1)
        normalizer_R = sum_R.log() + peak_R1.squeeze(1)
        nll_R.copy_(normalizer_R - picked_R)
        total += (weight_R * (nll_R + z_loss * normalizer_R.square())).sum()
        # d loss / d logits = weight * (softmax * (1 + 2 z lse) - onehot)
        factor_R = weight_R * (1 + 2 * z_loss * normalizer_R) / sum_R
        tile_RV.mul_(factor_R.unsqueeze(1)).scatter_add_(1, index_R1, -weight_R.unsqueeze(1))
    return nll_M, total


@region
def chunk_loss_at_once(
    logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, z_loss: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `chunk_loss` returns, by element-wise operations that a compiler can join."""
    normalizer_M = torch.logsumexp(logits_MV, dim=-1)
    index_M1 = targets_M.unsqueeze(1)
    nll_M = normalizer_M - logits_MV.gather(1, index_M1).squeeze(1)
    total = (weights_M * (nll_M + z_loss * normalizer_M.square())).sum()
    factor_M = weights_M * (1 + 2 * z_loss * normalizer_M)
    softmax_MV = (logits_MV - normalizer_M.unsqueeze(1)).exp()
    is_target_MV = torch.arange(logits_MV.shape[1], device=logits_MV.device) == index_M1
    grad_MV = softmax_MV * factor_M.unsqueeze(1)
    grad_MV = torch.where(is_target_MV, grad_MV - weights_M.unsqueeze(1), grad_MV)
    return nll_M, total, grad_MV.to(dtype)
