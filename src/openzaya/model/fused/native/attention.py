"""Causal attention inside packed documents, in our C++ with gradients.

Paper: II.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.documents import Documents
from openzaya.model.fused.native.library import call

LANES = 16
"""Channels of a head come in multiples of this."""
UNLIMITED = 1 << 40
"""A window that holds every document."""
Context = torch.autograd.function.FunctionCtx


def attend(
    q_THP: Tensor,
    k_SKP: Tensor,
    v_SKP: Tensor,
    queries: Documents,
    keys: Documents,
    window: int | None,
) -> Tensor:
    """Return [T, H P] of causal attention in fp32, over the last `window` tokens where given.

    A document's T queries are the last of its S keys' tokens. The same bits for a document whatever
    lies beside it. Only the output and one number a token and head are kept for the gradient.
    """
    width = q_THP.shape[-1]
    scale, missing = width**-0.5, -width % LANES
    if missing:
        q_THP, k_SKP, v_SKP = (F.pad(x, (0, missing)) for x in (q_THP, k_SKP, v_SKP))
    out_THP: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        q_THP, k_SKP, v_SKP, queries.ends_B, keys.ends_B, window or UNLIMITED, scale
    )
    return out_THP[..., :width].flatten(1)


class _Attend(torch.autograd.Function):
    """Forward keeps the logarithm of each softmax's sum; backward computes the scores again."""

    @staticmethod
    def forward(ctx: Context, *args: object) -> Tensor:
        *inputs, window, scale = args
        assert isinstance(window, int)
        assert isinstance(scale, float)
        q, k, v, *ends = (x.contiguous() for x in inputs if isinstance(x, Tensor))
        tokens, heads, width = q.shape
        out, best_HT, total_HT = torch.empty_like(q), *q.new_empty(2, heads, tokens)
        sizes = (ends[0].numel() - 1, heads, k.shape[1], width, window)
        call("attend_forward", q, k, v, out, best_HT, total_HT, *ends, *sizes, scale)
        lse_HT = best_HT + total_HT.log2_()
        ctx.save_for_backward(q, k, v, out, lse_HT, *ends)
        ctx.sizes, ctx.scale = sizes, scale  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_HT, *ends = ctx.saved_tensors  # type: ignore[attr-defined]
        sizes: tuple[int, ...] = ctx.sizes  # type: ignore[attr-defined]
        scale: float = ctx.scale  # type: ignore[attr-defined]
        found = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad = grads[0].contiguous()
        call("attend_backward", q, k, v, out, lse_HT, grad, *found, *ends, *sizes, scale)
        return *found, None, None, None, None
