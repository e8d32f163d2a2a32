"""Moving rows between layouts, with a backward pass that is the inverse move.

torch's own backward of `index_select` adds, and its `index_copy` first copies what it writes to.
Our indices never repeat and what is written to is new: one copy is enough.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

TILE_ELEMENTS = 1 << 16
"""Elements of each tensor of a tile: a handful of them stays in a core's second-level cache."""
Context = torch.autograd.function.FunctionCtx


def take_rows(x_ND: Tensor, index_T: Tensor) -> Tensor:
    """Return rows `index_T` of `x_ND`; no index may occur twice."""
    if not (torch.is_grad_enabled() and x_ND.requires_grad):
        return x_ND.index_select(0, index_T)
    out_TD: Tensor = _Take.apply(x_ND, index_T)  # type: ignore[no-untyped-call]
    return out_TD


def put_rows(x_TD: Tensor, index_T: Tensor, num_rows: int) -> Tensor:
    """Return a zero tensor of `num_rows` rows with `x_TD` at rows `index_T`; none twice."""
    if not (torch.is_grad_enabled() and x_TD.requires_grad):
        return _put(x_TD, index_T, num_rows)
    out_ND: Tensor = _Put.apply(x_TD, index_T, num_rows)  # type: ignore[no-untyped-call]
    return out_ND


def _put(x_TD: Tensor, index_T: Tensor, num_rows: int) -> Tensor:
    # As many rows as indices, none twice: nothing stays as it was made.
    make = x_TD.new_empty if x_TD.shape[0] == num_rows else x_TD.new_zeros
    return make(num_rows, x_TD.shape[1]).index_copy_(0, index_T, x_TD)


def tiles(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of the same few rows of all tensors; everything at once on an accelerator.

    The first one's width decides how many rows. Element-wise steps on a tile find what the step
    before wrote in the cache.
    """
    first = tensors[0]
    rows = first.shape[0]
    if first.device.type == "cpu":
        rows = max(1, TILE_ELEMENTS * torch.get_num_threads() // max(1, first.shape[-1]))
    yield from zip(*(torch.split(x, max(1, rows)) for x in tensors), strict=True)


class _Take(torch.autograd.Function):
    """Gather unique rows; the gradient is scattered back."""

    @staticmethod
    def forward(ctx: Context, *args: Tensor) -> Tensor:
        x_ND, index_T = args
        ctx.save_for_backward(index_T)
        ctx.num_rows = x_ND.shape[0]  # type: ignore[attr-defined]
        return x_ND.index_select(0, index_T)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index_T,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _put(grads[0], index_T, ctx.num_rows), None  # type: ignore[attr-defined]


class _Put(torch.autograd.Function):
    """Scatter rows to unique places; the gradient is gathered back."""

    @staticmethod
    def forward(ctx: Context, *args: object) -> Tensor:
        x_TD, index_T, num_rows = args
        assert isinstance(x_TD, Tensor)
        assert isinstance(index_T, Tensor)
        assert isinstance(num_rows, int)
        ctx.save_for_backward(index_T)
        return _put(x_TD, index_T, num_rows)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index_T,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0].index_select(0, index_T), None, None
