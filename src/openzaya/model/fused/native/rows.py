"""The regions of single rows in our C++: same names, arguments and results as in `regions`.

fp32 on a CPU only. A backward pass computes again what is cheaper to compute than to keep.

Letters as in `regions`.

Paper: II.
"""

from typing import Any

import torch
from torch import Tensor

from openzaya.model.fused.native.library import call

NO_TERMS: tuple[None, None, None, None] = (None, None, None, None)


def norm_rows(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return RMS-normed rows."""
    return _SumNorm.apply(eps, False, weight_D, x_TD, None, *NO_TERMS)[0]  # type: ignore[no-untyped-call,no-any-return]


def add_branch(branch_TD: Tensor, x_TD: Tensor, scaling: list[Tensor]) -> Tensor:
    """Return the stream with a branch added; `scaling` as in `ResidualScaling`."""
    return _SumNorm.apply(0.0, True, None, branch_TD, x_TD, *scaling)[0]  # type: ignore[no-untyped-call,no-any-return]


def add_branch_and_norm(
    branch_TD: Tensor, x_TD: Tensor, scaling: list[Tensor], weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the stream with a branch added, and its normed rows."""
    return _SumNorm.apply(eps, True, weight_D, branch_TD, x_TD, *scaling)  # type: ignore[no-untyped-call,no-any-return]


def shift_and_scale(x_TD: Tensor, bias_D: Tensor, scale_D: Tensor) -> Tensor:
    """Return the stream's start."""
    return _SumNorm.apply(0.0, True, None, x_TD, None, scale_D, bias_D, None, None)[0]  # type: ignore[no-untyped-call,no-any-return]


def first_state(state_TR: Tensor, weight_R: Tensor, eps: float) -> Tensor:
    """Return the router's normed state in the first layer."""
    return norm_rows(state_TR, weight_R, eps)


def averaged_state(
    state_TR: Tensor, previous_TR: Tensor, scale_R: Tensor, weight_R: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the state averaged over depth, and its normed form."""
    return _SumNorm.apply(  # type: ignore[no-untyped-call,no-any-return]
        eps, True, weight_R, state_TR, previous_TR, None, None, scale_R, None
    )


class _SumNorm(torch.autograd.Function):
    """Sums of a branch and a stream, their normed rows, or both; the terms as in `rows.h`.

    Keeps the terms and a number a row.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        eps, wants_sum, weight_D, *terms = args
        branch_TD = terms[0]
        rows, width = branch_TD.shape
        sum_TD = torch.empty_like(branch_TD) if wants_sum else None
        normed_TD = inverse_T = None
        if weight_D is not None:
            normed_TD, inverse_T = torch.empty_like(branch_TD), branch_TD.new_empty(rows)
        call("sum_norm", *terms, weight_D, eps, rows, width, sum_TD, normed_TD, inverse_T)
        ctx.eps, ctx.wants_sum = eps, wants_sum
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inverse_T, weight_D, *terms)
        return tuple(x_TD for x_TD in (sum_TD, normed_TD) if x_TD is not None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        inverse_T, weight_D, *terms = ctx.saved_tensors
        rows_grads = iter(None if grad is None else grad.contiguous() for grad in grads)
        sum_grad = next(rows_grads) if ctx.wants_sum else None
        normed_grad = None if weight_D is None else next(rows_grads)
        branch_TD, stream_TD, *vectors = terms
        rows, width = branch_TD.shape
        branch_grad = torch.empty_like(branch_TD)
        stream_grad = None if stream_TD is None else torch.empty_like(stream_TD)
        vector_grads = branch_TD.new_empty(5, width)
        call(
            "sum_norm_backward",
            *terms,
            *(weight_D, ctx.eps, rows, width, inverse_T, sum_grad, normed_grad),
            *(branch_grad, stream_grad, vector_grads),
        )
        *of_scaling, of_weight_D = vector_grads.unbind()
        return (
            *(None, None, None if weight_D is None else of_weight_D, branch_grad, stream_grad),
            *(None if x is None else grad for x, grad in zip(vectors, of_scaling, strict=True)),
        )


def choose(
    scores_TX: Tensor, balance_X: Tensor, replay_T: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return every token's class, the probability of it, and those of all without gradient."""
    return _Choose.apply(scores_TX, balance_X, replay_T)  # type: ignore[no-untyped-call,no-any-return]


class _Choose(torch.autograd.Function):
    """The gradient of the scores is gate * (onehot - probabilities)."""

    @staticmethod
    def forward(
        ctx: Any, scores_TX: Tensor, balance_X: Tensor, replay_T: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, width = scores_TX.shape
        expert_T = scores_TX.new_empty(rows, dtype=torch.int64)
        gate_T, probs_TX = scores_TX.new_empty(rows), torch.empty_like(scores_TX)
        replay_T = None if replay_T is None else replay_T.contiguous()
        call(
            "choose",
            *(scores_TX, balance_X, replay_T, rows, width),
            *(expert_T, gate_T, probs_TX),
        )
        ctx.mark_non_differentiable(expert_T, probs_TX)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(probs_TX, expert_T)
        return expert_T, gate_T, probs_TX

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        probs_TX, expert_T = ctx.saved_tensors
        if grads[1] is None:
            return None, None, None
        scores_grad = torch.empty_like(probs_TX)
        call(
            "choose_backward",
            *(probs_TX, expert_T, grads[1].contiguous(), *probs_TX.shape, scores_grad),
        )
        return scores_grad, None, None
