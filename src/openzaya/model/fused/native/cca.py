"""The mixing of CCA between its projections and attention, in our C++ with gradients.

Letters as in `model.fused.regions`; E = C + W are the channels of all projections of a token.

Paper: II.
Source: arXiv:2510.04476.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.fused.native.attention import LANES
from openzaya.model.fused.native.library import call

Context = torch.autograd.function.FunctionCtx
Heads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class MixWeights:
    """The two convolutions and the key temperature, as the parameters are stored."""

    depthwise_C2: Tensor
    """Older and newer tap of each channel."""
    shift_C: Tensor
    """Bias of the depthwise convolution."""
    grouped_CP2: Tensor
    """Output channel by input channel of the same head by tap, the older first."""
    bias_C: Tensor
    """Bias of the per-head convolution."""
    temp_K: Tensor
    """Temperature of each key head."""


def mix(x_TE: Tensor, weights: MixWeights, ends_B: Tensor, rope: tuple[Tensor, Tensor]) -> Heads:
    """Return rotated queries [T, H, P] and keys [T, K, P], and half-delayed values [T, K, P].

    A row of `x_TE` holds the queries, the keys, the values of this token and those that the next
    token gets. `ends_B` is int32: 0, then the end of every document; cos and sin are [T, R].
    The convolutions are computed again for the gradient: nothing but the inputs is kept.
    """
    width, keys = weights.grouped_CP2.shape[1], weights.temp_K.shape[0]
    length, missing = math.sqrt(width), -width % LANES
    parts = [weights.depthwise_C2, weights.shift_C, weights.grouped_CP2, weights.bias_C]
    if missing:
        channels = weights.shift_C.shape[0]
        u_TC, v_TW = torch.split(x_TE, [channels, x_TE.shape[1] - channels], dim=1)
        x_TE = torch.cat((_padded(u_TC.mT, width, missing).mT, v_TW), dim=1)
        parts = [_padded(part, width, missing) for part in parts]
        parts[2] = F.pad(parts[2], (0, 0, 0, missing))
    q, k, v_TW = _MixHeads.apply(  # type: ignore[no-untyped-call]
        x_TE, *parts, weights.temp_K, *rope, ends_B, length
    )
    return q[..., :width], k[..., :width], v_TW.view(-1, keys, width)


def _padded(x: Tensor, width: int, missing: int) -> Tensor:
    """Return channels [C, ...] with zeros behind every head of `width`."""
    heads = x.reshape(-1, width, x.shape[1:].numel())
    return F.pad(heads, (0, 0, 0, missing)).reshape(-1, *x.shape[1:])


class _MixHeads(torch.autograd.Function):
    """Both convolutions, QK-mean, norm, temperature, rotation and value delay in one pass."""

    @staticmethod
    def forward(ctx: Context, *args: object) -> Heads:
        *inputs, length = args
        assert isinstance(length, float)
        tensors = tuple(x.contiguous() for x in inputs if isinstance(x, Tensor))
        ctx.save_for_backward(*tensors)
        ctx.length = length  # type: ignore[attr-defined]
        x_TE, ends_B = tensors[0], tensors[-1]
        sizes = _sizes(tensors)
        _, heads, keys, width, _, half = sizes
        q = x_TE.new_empty(x_TE.shape[0], heads, width)
        k = x_TE.new_empty(x_TE.shape[0], keys, width)
        v_TW = x_TE.new_empty(x_TE.shape[0], 2 * half)
        call("mix_forward", x_TE, *_weights(tensors), ends_B, q, k, v_TW, *sizes, length)
        return q, k, v_TW

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        length: float = ctx.length  # type: ignore[attr-defined]
        x_TE, depthwise_C2, shift_C, grouped_CP2, bias_C, temp_K, *_, ends_B = tensors
        sizes, x_grad = _sizes(tensors), torch.empty_like(x_TE)
        _, heads, keys, width, _, _ = sizes
        back_taps = grouped_CP2.view(heads + keys, width, width, 2).permute(0, 3, 1, 2).flip(1)
        found: list[Tensor | None] = [None] * 6
        if any(ctx.needs_input_grad[1:6]):  # type: ignore[attr-defined]
            taps_grad = x_TE.new_zeros(heads + keys, 2, width, width)
            depthwise_grad = torch.zeros_like(shift_C), torch.zeros_like(shift_C)
            others = [torch.zeros_like(x) for x in (shift_C, bias_C, temp_K)]
            found = [*depthwise_grad, others[0], taps_grad, *others[1:]]
        call(
            "mix_backward",
            x_TE, *_weights(tensors), ends_B, back_taps.contiguous(),
            *(grad.contiguous() for grad in grads), x_grad, *found, *sizes, length,
        )  # fmt: skip
        if found[0] is None:
            return x_grad, *[None] * 9
        grouped_grad = taps_grad.permute(0, 3, 2, 1).reshape_as(grouped_CP2)
        depthwise = torch.stack(depthwise_grad, dim=-1).view_as(depthwise_C2)
        return x_grad, depthwise, others[0], grouped_grad, *others[1:], *[None] * 4


def _sizes(tensors: tuple[Tensor, ...]) -> tuple[int, int, int, int, int, int]:
    """Return documents, query heads, key heads, width, rotated pairs and half the values."""
    x_TE, _, shift_C, grouped_CP2, _, temp_K, cos_TR, _, ends_B = tensors
    channels, width, keys = shift_C.shape[0], grouped_CP2.shape[1], temp_K.shape[0]
    half = (x_TE.shape[1] - channels) // 2
    return ends_B.numel() - 1, channels // width - keys, keys, width, cos_TR.shape[1], half


def _weights(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the weights and angles as C++ takes them, a tap at a time."""
    _, depthwise_C2, shift_C, grouped_CP2, bias_C, temp_K, cos_TR, sin_TR, _ = tensors
    width = grouped_CP2.shape[1]
    older_C, newer_C = depthwise_C2.view(-1, 2).t().contiguous()
    taps = grouped_CP2.view(-1, width, width, 2).permute(0, 3, 2, 1).contiguous()
    return older_C, newer_C, shift_C, taps, bias_C, temp_K, cos_TR, sin_TR
