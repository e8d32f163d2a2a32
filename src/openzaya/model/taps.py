"""The CCA arithmetic on padded rows: convolutions, mean, norm, temperature and rotation.

The two convolutions have no nonlinearity between them, so for training they are folded into one
matrix per head and distance (0, 1 and 2 tokens back), with the own-head half of the QK-mean on
the diagonal. J is the number of convolved heads, query heads first: J = H + K.

Paper: II.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Context = torch.autograd.function.FunctionCtx


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """Both convolutions as three matrices per head and one bias."""

    now_JPP: Tensor
    """Output by input channel, same token."""
    one_JPP: Tensor
    """The same, one token back."""
    two_JPP: Tensor
    """The same, two tokens back."""
    bias_JP: Tensor
    """The constant part: the first convolution's bias reaches every position through both taps."""


def fold(depthwise_C2: Tensor, shift_C: Tensor, grouped_CP2: Tensor, bias_C: Tensor) -> Folded:
    """Compose the depthwise and the per-head convolution.

    Before a sequence starts the first convolution yields its bias, not zero, so the bias term is
    the same at every position.
    """
    width = grouped_CP2.shape[1]
    taps_J1P2 = depthwise_C2.view(-1, 1, width, 2)
    mix_JPP2 = grouped_CP2.view(-1, width, width, 2)
    before_JPP, now_JPP = mix_JPP2.unbind(-1)
    older_J1P, newer_J1P = taps_J1P2.unbind(-1)
    # Half of the QK-mean is the head itself.
    eye_PP = torch.eye(width, dtype=now_JPP.dtype, device=now_JPP.device)
    shift_JP1 = shift_C.view(-1, width, 1)
    constant_JP1 = torch.bmm(before_JPP + now_JPP, shift_JP1)
    return Folded(
        now_JPP=now_JPP * newer_J1P + 0.5 * eye_PP,
        one_JPP=now_JPP * older_J1P + before_JPP * newer_J1P,
        two_JPP=before_JPP * older_J1P,
        bias_JP=bias_C.view(-1, width) + constant_JP1.squeeze(-1),
    )


def mix_folded(u_MC: Tensor, folded: Folded, num_queries: int) -> Tensor:
    """Return convolution plus QK-mean, [J, N, P], of every padded row from the third on."""
    out_JNP: Tensor = _Mix.apply(  # type: ignore[no-untyped-call]
        u_MC, folded.now_JPP, folded.one_JPP, folded.two_JPP, folded.bias_JP, num_queries
    )
    return out_JNP


class _Mix(torch.autograd.Function):
    """Three shifted products per head accumulated in place, plus the cross-head half mean."""

    @staticmethod
    def forward(ctx: Context, *args: object) -> Tensor:
        u_MC, now_JPP, one_JPP, two_JPP, bias_JP, num_queries = args
        assert isinstance(u_MC, Tensor)
        assert isinstance(now_JPP, Tensor)
        assert isinstance(one_JPP, Tensor)
        assert isinstance(two_JPP, Tensor)
        assert isinstance(bias_JP, Tensor)
        assert isinstance(num_queries, int)
        ctx.save_for_backward(u_MC, now_JPP, one_JPP, two_JPP)
        ctx.num_queries = num_queries  # type: ignore[attr-defined]
        heads, width = bias_JP.shape
        u_JNP = u_MC.view(-1, heads, width).transpose(0, 1)
        out = torch.baddbmm(bias_JP.unsqueeze(1), u_JNP[:, 2:], now_JPP.mT)
        out.baddbmm_(u_JNP[:, 1:-1], one_JPP.mT)
        out.baddbmm_(u_JNP[:, :-2], two_JPP.mT)
        _add_cross_mean(out, u_JNP[:, 2:], num_queries)
        return out

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u_MC, now_JPP, one_JPP, two_JPP = ctx.saved_tensors  # type: ignore[attr-defined]
        num_queries: int = ctx.num_queries  # type: ignore[attr-defined]
        grad = grads[0]
        heads, width = now_JPP.shape[0], now_JPP.shape[1]
        u = u_MC.view(-1, heads, width).transpose(0, 1)
        u_grad_MC = torch.empty_like(u_MC)
        u_grad = u_grad_MC.view(-1, heads, width).transpose(0, 1)
        rows = u.shape[1]
        matrix_grads = []
        # The first product writes all rows but two, the others add to what is there.
        u_grad[:, :2] = 0
        for back, matrix_JPP in enumerate((now_JPP, one_JPP, two_JPP)):
            span = slice(2 - back, rows - back)
            u_grad[:, span].baddbmm_(grad, matrix_JPP, beta=min(back, 1))
            matrix_grads.append(torch.bmm(grad.mT, u[:, span]))
        _add_cross_mean_grad(u_grad[:, 2:], grad, num_queries)
        return u_grad_MC, *matrix_grads, grad.sum(dim=1), None


def _add_cross_mean(out: Tensor, u: Tensor, num_queries: int) -> None:
    """Add half the shared key to each query, and half the mean of its queries to each key."""
    num_keys = out.shape[0] - num_queries
    shape = (num_keys, num_queries // num_keys, *out.shape[1:])
    out[:num_queries].view(shape).add_(u[num_queries:].unsqueeze(1), alpha=0.5)
    queries_mean = u[:num_queries].view(shape).mean(dim=1)
    out[num_queries:].add_(queries_mean, alpha=0.5)


def _add_cross_mean_grad(u_grad: Tensor, grad: Tensor, num_queries: int) -> None:
    """Add the transpose of `_add_cross_mean` to the gradient of its input."""
    num_keys = grad.shape[0] - num_queries
    group = num_queries // num_keys
    shape = (num_keys, group, *grad.shape[1:])
    queries_grad = grad[:num_queries].view(shape)
    u_grad[num_queries:].add_(queries_grad.sum(dim=1), alpha=0.5)
    spread = grad[num_queries:].unsqueeze(1).expand(-1, group, -1, -1)
    u_grad[:num_queries].view(shape).add_(spread, alpha=0.5 / group)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvWeights:
    """The two convolutions as stored."""

    depthwise_C2: Tensor
    """Older and newer tap of each channel."""
    shift_C: Tensor
    """Bias of the depthwise convolution."""
    grouped_CP2: Tensor
    """Output channel by input channel of the same head by tap."""
    bias_C: Tensor
    """Bias of the per-head convolution."""


def mix_stepwise(window_NC3: Tensor, weights: ConvWeights, num_queries: int) -> Tensor:
    """Return convolution plus QK-mean, [J, N, P], of rows given with their two predecessors.

    The same numbers as `mix_folded` in transformers' order of operations; cheaper for few rows,
    where folding the weights would cost more than it saves.
    """
    width = weights.grouped_CP2.shape[1]
    older_C1, newer_C1 = torch.split(weights.depthwise_C2, 1, dim=-1)
    first_NC2 = window_NC3[..., :2] * older_C1 + weights.shift_C.unsqueeze(-1)
    first_NC2 = torch.addcmul(first_NC2, window_NC3[..., 1:], newer_C1)
    rows = window_NC3.shape[0]
    pairs = first_NC2.view(rows, -1, 2 * width).transpose(0, 1)
    matrices = weights.grouped_CP2.view(-1, width, 2 * width).mT
    out = torch.baddbmm(weights.bias_C.view(-1, 1, width), pairs, matrices)
    u = window_NC3[..., 2].reshape(rows, -1, width).transpose(0, 1)
    num_keys = out.shape[0] - num_queries
    queries = u[:num_queries].view(num_keys, -1, *u.shape[1:])
    keys = u[num_queries:]
    mean_queries = (queries + keys.unsqueeze(1)) * 0.5
    return out + torch.cat((mean_queries.flatten(0, 1), mean_queries.mean(dim=1)))


def norm_rotate(x_JNP: Tensor, scale_J: Tensor, rope: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """Scale every head vector to length `scale_J`, then rotate its first channels.

    A vector shorter than `eps` is divided by `eps` instead of its length.

    Paper: II.
    Deviation: D-004.
    """
    out_JNP: Tensor = _NormRotate.apply(x_JNP, scale_J, *rope, eps)  # type: ignore[no-untyped-call]
    return out_JNP


class _NormRotate(torch.autograd.Function):
    """L2 norm, temperature and rotation with one saved tensor."""

    @staticmethod
    def forward(ctx: Context, *args: object) -> Tensor:
        x_JNP, scale_J, cos_NR, sin_NR, eps = args
        assert isinstance(x_JNP, Tensor)
        assert isinstance(scale_J, Tensor)
        assert isinstance(cos_NR, Tensor)
        assert isinstance(sin_NR, Tensor)
        assert isinstance(eps, float)
        norm_JN1 = torch.linalg.vector_norm(x_JNP, dim=-1, keepdim=True).clamp_min_(eps)
        ctx.save_for_backward(x_JNP, scale_J, cos_NR, sin_NR, norm_JN1)
        ctx.eps = eps  # type: ignore[attr-defined]
        y_JNP = x_JNP * (scale_J.view(-1, 1, 1) / norm_JN1)
        return _rotate_in_place(y_JNP, cos_NR, sin_NR)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_JNP, scale_J, cos_NR, sin_NR, norm_JN1 = ctx.saved_tensors  # type: ignore[attr-defined]
        eps: float = ctx.eps  # type: ignore[attr-defined]
        grad_JNP = _rotate_in_place(grads[0].clone(), cos_NR, -sin_NR)
        along_JN1 = (grad_JNP * x_JNP).sum(dim=-1, keepdim=True).div_(norm_JN1)
        # Under the floor the length is a constant, so nothing is projected out.
        radial_JN1 = (along_JN1 * (norm_JN1 > eps)).div_(norm_JN1)
        grad_JNP.addcmul_(x_JNP, radial_JN1, value=-1)
        grad_JNP.mul_(scale_J.view(-1, 1, 1) / norm_JN1)
        return grad_JNP, along_JN1.sum(dim=(1, 2)), None, None, None


def _rotate_in_place(x_JNP: Tensor, cos_NR: Tensor, sin_NR: Tensor) -> Tensor:
    """Rotate channel r with channel r + R; written out to spare the concatenation."""
    half = cos_NR.shape[-1]
    first_JNR, second_JNR = x_JNP[..., :half], x_JNP[..., half : 2 * half]
    old_JNR = first_JNR.clone()
    first_JNR.mul_(cos_NR).addcmul_(second_JNR, sin_NR, value=-1)
    second_JNR.mul_(cos_NR).addcmul_(old_JNR, sin_NR)
    return x_JNP


def delay_values(v_MW: Tensor) -> Tensor:
    """Pair each row's first half with its predecessor's second half, from the third row on."""
    out_NW: Tensor = _Delay.apply(v_MW)  # type: ignore[no-untyped-call]
    return out_NW


class _Delay(torch.autograd.Function):
    """The value delay as two copies each way."""

    @staticmethod
    def forward(_ctx: Context, *args: Tensor) -> Tensor:
        (v_MW,) = args
        half = v_MW.shape[1] // 2
        return torch.cat((v_MW[2:, :half], v_MW[1:-1, half:]), dim=1)

    @staticmethod
    def backward(_ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_NW = grads[0]
        half = grad_NW.shape[1] // 2
        out = grad_NW.new_zeros(grad_NW.shape[0] + 2, grad_NW.shape[1])
        out[2:, :half] = grad_NW[:, :half]
        out[1:-1, half:] = grad_NW[:, half:]
        return (out,)
