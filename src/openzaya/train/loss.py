"""Cross-entropy in fp32 without ever holding the logits of all tokens.

Letters: N predictions, M some of them (those that count; one chunk), V vocabulary, D model width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DEFAULT_CHUNK = 2_048
"""Predictions whose logits exist at the same time."""


def chunked_cross_entropy(
    hidden_ND: Tensor,
    head_weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    chunk: int = DEFAULT_CHUNK,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of next-token losses and every token's loss (nats, no gradient).

    Logits and losses are fp32 whatever the inputs are. Predictions of weight 0 cost nothing and
    get loss 0. `z_loss` adds that multiple of the squared log-normalizer to the sum, not to the
    per-token losses.

    Paper: IV-D (the LM head and cross-entropy are in the fp32 set).
    """
    # In SFT often fewer than half of all predictions count.
    kept_M = weights_N.nonzero().squeeze(1)
    loss, nll_M = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND[kept_M], head_weight_VD, targets_N[kept_M], weights_N[kept_M], chunk, z_loss
    )
    nll_N = torch.zeros_like(weights_N).index_copy(0, kept_M, nll_M)
    return loss, nll_N


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients chunk by chunk in the forward pass, so no logits are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_weight_VD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        chunk: int,
        z_loss: float,
    ) -> tuple[Tensor, Tensor]:
        head_VD = head_weight_VD.float()
        needs_grad = hidden_ND.requires_grad or head_weight_VD.requires_grad
        hidden_grad_ND = torch.zeros_like(hidden_ND) if needs_grad else None
        head_grad_VD = torch.zeros_like(head_VD) if needs_grad else None
        nll_N = torch.empty_like(weights_N)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            x_MD = hidden_ND[part].float()
            weight_M = weights_N[part]
            logits_MV = F.linear(x_MD, head_VD)
            normalizer_M = torch.logsumexp(logits_MV, dim=-1)
            picked_M = logits_MV.gather(1, targets_N[part].unsqueeze(1)).squeeze(1)
            nll_N[part] = normalizer_M - picked_M
            total += (weight_M * (nll_N[part] + z_loss * normalizer_M.square())).sum()
            if hidden_grad_ND is None or head_grad_VD is None:
                continue
            # d loss / d logits = weight * (softmax * (1 + 2 z lse) - onehot)
            factor_M = weight_M * (1 + 2 * z_loss * normalizer_M)
            grad_MV = (logits_MV - normalizer_M.unsqueeze(1)).exp_().mul_(factor_M.unsqueeze(1))
            grad_MV.scatter_add_(1, targets_N[part].unsqueeze(1), -weight_M.unsqueeze(1))
            hidden_grad_ND[part] = (grad_MV @ head_VD).to(hidden_ND.dtype)
            head_grad_VD.addmm_(grad_MV.T, x_MD)
        ctx.weight_dtype = head_weight_VD.dtype
        ctx.save_for_backward(hidden_grad_ND, head_grad_VD)
        ctx.mark_non_differentiable(nll_N)
        return total, nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad_ND, head_grad_VD = ctx.saved_tensors
        scale = grads[0]
        return (
            hidden_grad_ND * scale,
            (head_grad_VD * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
        )
