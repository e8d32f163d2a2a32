"""Rows that travel between ranks, and whose gradients travel back.

Letters: N rows of this rank, G rows that arrive, D anything.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def exchange_rows(
    x_ND: Tensor, sends: list[int], receives: list[int], group: dist.ProcessGroup
) -> Tensor:
    """Send the next `sends[r]` rows to every rank r of the group; return what arrives, in order.

    `receives[r]` rows come from rank r. Zero rows are fine, also for a whole rank. The backward
    pass sends the gradients of the rows back where they came from.
    """
    out_GD: Tensor = _Exchange.apply(x_ND, sends, receives, group)  # type: ignore[no-untyped-call]
    return out_GD


class _Exchange(torch.autograd.Function):
    """An uneven all-to-all whose gradient is the all-to-all the other way."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, sends: list[int], receives: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sends, ctx.receives, ctx.group = sends, receives, group
        return move(x_ND, sends, receives, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return move(grads[0], ctx.receives, ctx.sends, ctx.group), None, None, None


def move(x_ND: Tensor, sends: list[int], receives: list[int], group: dist.ProcessGroup) -> Tensor:
    """Return the rows that arrive, without gradients."""
    out_GD = x_ND.new_empty(sum(receives), *x_ND.shape[1:])
    dist.all_to_all_single(out_GD, x_ND.contiguous(), receives, sends, group=group)
    return out_GD


def exchange_counts(counts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the counts that the ranks of a group have for this one: row r from rank r.

    `counts` is int64 [ranks of the group, anything].
    """
    out = torch.empty_like(counts)
    dist.all_to_all_single(out, counts.contiguous(), group=group)
    return out
