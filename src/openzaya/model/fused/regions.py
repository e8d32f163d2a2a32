"""The element-wise regions of a layer; each is one kernel or few where it is compiled.

They compute in fp32 and round where a value enters a product: a superset of the paper's list of
fp32 operations.

Letters: T tokens, D width, C = (H + K) P convolved channels, J = H + K heads, P channels a head,
R rotated pairs or the router's width, W value channels, F expert width, X router classes.

Paper: II; IV-D.
Deviation: D-041.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.fused.compiling import region


@region
def norm_rows(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return RMS-normed rows in the weight's dtype."""
    return _normed(x_TD.float(), weight_D, eps)


def _normed(wide_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    scale_T1 = torch.rsqrt(wide_TD.square().mean(dim=-1, keepdim=True) + eps)
    return (wide_TD * scale_T1 * weight_D.float()).to(weight_D.dtype)


@region
def add_branch(branch_TD: Tensor, x_TD: Tensor, scaling: list[Tensor]) -> Tensor:
    """Return the fp32 stream with a branch added; `scaling` as in `ResidualScaling`."""
    return _added(branch_TD, x_TD, scaling)


@region
def add_branch_and_norm(
    branch_TD: Tensor, x_TD: Tensor, scaling: list[Tensor], weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the fp32 stream with a branch added, and its normed rows in the weight's dtype."""
    sum_TD = _added(branch_TD, x_TD, scaling)
    return sum_TD, _normed(sum_TD, weight_D, eps)


def _added(branch_TD: Tensor, x_TD: Tensor, scaling: list[Tensor]) -> Tensor:
    branch_scale_D, branch_bias_D, scale_D, bias_D = (vector.float() for vector in scaling)
    kept_TD = (x_TD.float() + bias_D) * scale_D
    return (branch_TD.float() + branch_bias_D) * branch_scale_D + kept_TD


@region
def first_convolution(
    u_TC: Tensor,
    taps_C2: Tensor,
    shift_C: Tensor,
    has: tuple[Tensor, Tensor],
    head_dim: int,
) -> Tensor:
    """Return the depthwise convolution at the token before and at each token, [T, J, 2 P].

    Before a document starts its inputs are zero, so the convolution gives its bias there.
    """
    older_C, newer_C = taps_C2.float().unbind(-1)
    wide_TC = u_TC.float()
    one_T1, two_T1 = (mask_T.unsqueeze(-1) for mask_T in has)
    before_TC = torch.where(one_T1, _shifted(wide_TC, 1), 0.0)
    earlier_TC = torch.where(two_T1, _shifted(wide_TC, 2), 0.0)
    shift = shift_C.float()
    now_TC = before_TC * older_C + wide_TC * newer_C + shift
    past_TC = earlier_TC * older_C + before_TC * newer_C + shift
    heads = [x_TC.view(x_TC.shape[0], -1, head_dim) for x_TC in (past_TC, now_TC)]
    return torch.cat(heads, dim=-1).to(u_TC.dtype)


def _shifted(x_TC: Tensor, distance: int) -> Tensor:
    """Return every row's predecessor at a distance; the first rows get zeros."""
    return F.pad(x_TC, (0, 0, distance, 0))[: x_TC.shape[0]]


@region
def mix_heads(
    conv_JTP: Tensor, u_TC: Tensor, bias_C: Tensor, temp_K: Tensor, rope: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return queries [T, H, P] and keys [T, K, P]: QK-mean added, normed, rotated."""
    heads, tokens, width = conv_JTP.shape
    keys = temp_K.shape[0]
    u_TJP = u_TC.view(tokens, heads, width).float()
    raw_q, raw_k = u_TJP[:, : heads - keys], u_TJP[:, heads - keys :]
    grouped_q = raw_q.view(tokens, keys, -1, width)
    mean_q = (grouped_q + raw_k.unsqueeze(2)) * 0.5
    conv_TJP = conv_JTP.transpose(0, 1).float() + bias_C.float().view(heads, width)
    q = conv_TJP[:, : heads - keys] + mean_q.flatten(1, 2)
    k = conv_TJP[:, heads - keys :] + mean_q.mean(dim=2)
    q = _rotated(_unit(q), rope).to(u_TC.dtype)
    k = _rotated(_unit(k) * temp_K.float().view(-1, 1), rope).to(u_TC.dtype)
    return q, k


def _unit(x_TJP: Tensor) -> Tensor:
    """Return rows of length sqrt(P)."""
    # The square is floored, not the root: the gradient of a root at zero is not finite.
    floor = torch.finfo(torch.float32).eps ** 2
    square_TJ1 = x_TJP.square().sum(dim=-1, keepdim=True).clamp_min(floor)
    return x_TJP * (math.sqrt(x_TJP.shape[-1]) * torch.rsqrt(square_TJ1))


def _rotated(x_TJP: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos_T1R, sin_T1R = (table.unsqueeze(1) for table in rope)
    half = cos_T1R.shape[-1]
    first_TJR, second_TJR = x_TJP[..., :half], x_TJP[..., half : 2 * half]
    return torch.cat(
        (
            first_TJR * cos_T1R - second_TJR * sin_T1R,
            second_TJR * cos_T1R + first_TJR * sin_T1R,
            x_TJP[..., 2 * half :],
        ),
        dim=-1,
    )


@region
def delay(v_TW: Tensor, has_one_T: Tensor) -> Tensor:
    """Return values whose second half comes from the token before; zeros where there is none."""
    half = v_TW.shape[-1] // 2
    late = torch.where(has_one_T.unsqueeze(-1), _shifted(v_TW[:, half:], 1), 0.0)
    return torch.cat((v_TW[:, :half], late.to(v_TW.dtype)), dim=-1)


@region
def first_state(state_TR: Tensor, weight_R: Tensor, eps: float) -> Tensor:
    """Return the router's normed state in the first layer."""
    return _normed(state_TR.float(), weight_R, eps)


@region
def averaged_state(
    state_TR: Tensor, previous_TR: Tensor, scale_R: Tensor, weight_R: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the state averaged over depth, and its normed form."""
    sum_TR = state_TR.float() + previous_TR.float() * scale_R.float()
    sum_TR = sum_TR.to(state_TR.dtype)
    return sum_TR, _normed(sum_TR.float(), weight_R, eps)


@region
def gelu(x_TR: Tensor) -> Tensor:
    """Return the exact Gaussian-error linear unit."""
    return F.gelu(x_TR.float()).to(x_TR.dtype)


def choose(
    scores_TX: Tensor, balance_X: Tensor, replay_T: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return every token's class, the probability of it, and those of all without gradient.

    Two regions, so that a layer keeps the same tensors for the gradient with a choice of its own
    and with a replayed one: a layer that is computed again must.
    """
    expert_T = best_class(scores_TX.detach(), balance_X) if replay_T is None else replay_T
    gate_T, probs_TX = gate_of(scores_TX, expert_T)
    return expert_T, gate_T, probs_TX


@region
def best_class(scores_TX: Tensor, balance_X: Tensor) -> Tensor:
    """Return the class of the largest balanced probability."""
    return (scores_TX.float().softmax(dim=-1) + balance_X).argmax(dim=-1)


@region
def gate_of(scores_TX: Tensor, expert_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of every token's class, and those of all without gradient."""
    probs_TX = scores_TX.float().softmax(dim=-1)
    picked_TX = torch.arange(probs_TX.shape[-1], device=probs_TX.device) == expert_T.unsqueeze(-1)
    # A sum over a mask instead of a gather: its gradient is no scatter.
    gate_T = torch.where(picked_TX, probs_TX, 0.0).sum(dim=-1)
    return gate_T, probs_TX.detach()


@region
def gated(both_TF: Tensor) -> Tensor:
    """Return silu(gate) * up of rows that hold the gate, then up."""
    gate, up = both_TF.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(both_TF.dtype)


@region
def gated_backward(
    both_TF: Tensor, hidden_grad: Tensor, weight_T: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted hidden rows, the gradient of `both_TF` and that of the weight.

    `hidden_grad` is the output's gradient times the second projection, before the weight.
    """
    gate, up = both_TF.float().chunk(2, dim=-1)
    grad, weight_T1 = hidden_grad.float(), weight_T.unsqueeze(-1)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    hidden = silu * up
    weight_grad_T = (hidden * grad).sum(dim=-1)
    grad = grad * weight_T1
    gate_grad = grad * up * (sigmoid + silu * (1.0 - sigmoid))
    both_grad_TF = torch.cat((gate_grad, grad * silu), dim=-1)
    dtype = both_TF.dtype
    return (hidden * weight_T1).to(dtype), both_grad_TF.to(dtype), weight_grad_T


@region
def add_identity(out_TD: Tensor, h_TD: Tensor, weight_T: Tensor) -> Tensor:
    """Return the mixture's output plus the input of tokens that skip, times their weight."""
    return (out_TD.float() + h_TD.float() * weight_T.unsqueeze(-1)).to(out_TD.dtype)
