"""Experts on a CPU: one autograd function, of which torch does the products alone.

Letters: T tokens, N of them with an expert (the others skip), E experts, D width, F expert width,
G = 2 F.

Paper: II.
Deviation: D-001.
"""

from typing import Any

import torch
from torch import Tensor

from openzaya.model.fused.experts import grouped
from openzaya.model.fused.native.library import call


def mix_experts(
    h_TD: Tensor,
    expert_T: Tensor,
    weight_T: Tensor,
    stacks: tuple[Tensor, Tensor],
    *,
    identity_skip: bool,
) -> Tensor:
    """Return each row through its expert, times its weight; `stacks` as in `Experts`.

    Rows of class E pass no expert: they give zeros, or themselves times their weight.
    """
    out_TD: Tensor = _Mix.apply(h_TD, expert_T, weight_T, *stacks, identity_skip)  # type: ignore[no-untyped-call]
    return out_TD


class _Mix(torch.autograd.Function):
    """Keeps the input, the first product and the order; the rest is computed again.

    The weight's gradient needs no output of the experts: <g, W h> = <W' g, h>.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_TD: Tensor,
        expert_T: Tensor,
        weight_T: Tensor,
        gate_up_EGD: Tensor,
        down_EDF: Tensor,
        identity_skip: bool,
    ) -> Tensor:
        h_TD, weight_T = h_TD.contiguous(), weight_T.contiguous()
        order_T, ends_E, kept = sorted_by_expert(expert_T, gate_up_EGD.shape[0])
        x_ND = taken(h_TD, order_T, kept)
        both_NG = grouped(x_ND, gate_up_EGD.mT, ends_E)
        hidden_NF = x_ND.new_empty(kept, down_EDF.shape[2])
        call("gated", both_NG, *hidden_NF.shape, hidden_NF)
        y_ND = grouped(hidden_NF, down_EDF.mT, ends_E)
        out_TD = torch.empty_like(h_TD)
        skip = (h_TD, weight_T) if identity_skip else (None, None)
        call("put_rows", y_ND, order_T, weight_T, *skip, kept, *h_TD.shape, out_TD)
        ctx.save_for_backward(h_TD, weight_T, gate_up_EGD, down_EDF, both_NG, order_T, ends_E)
        ctx.identity_skip = identity_skip
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_TD, weight_T, gate_up_EGD, down_EDF, both_NG, order_T, ends_E = ctx.saved_tensors
        needs_h, _, _, needs_gate_up, needs_down, _ = ctx.needs_input_grad
        kept = both_NG.shape[0]
        grad_TD = grads[0].contiguous()
        grad_ND = taken(grad_TD, order_T, kept)
        hidden_NF = grouped(grad_ND, down_EDF, ends_E)  # a gradient first, then the hidden rows
        both_grad_NG = torch.empty_like(both_NG)
        weight_grad_T = torch.empty_like(weight_T)
        call(
            "gated_backward",
            *(both_NG, weight_T, order_T, *hidden_NF.shape),
            *(hidden_NF, both_grad_NG, weight_grad_T),
        )
        skipped = h_TD if ctx.identity_skip else None
        call("skip_backward", grad_TD, skipped, order_T, kept, *h_TD.shape, weight_grad_T)
        down_grad = grouped(grad_ND.t(), hidden_NF, ends_E) if needs_down else None
        del hidden_NF, grad_ND
        gate_up_grad = h_grad_TD = None
        if needs_gate_up:
            gate_up_grad = grouped(both_grad_NG.t(), taken(h_TD, order_T, kept), ends_E)
        if needs_h:
            x_grad_ND = grouped(both_grad_NG, gate_up_EGD, ends_E)
            h_grad_TD = torch.empty_like(h_TD)
            skip = (grad_TD, weight_T) if ctx.identity_skip else (None, None)
            call("put_rows", x_grad_ND, order_T, None, *skip, kept, *h_TD.shape, h_grad_TD)
        return h_grad_TD, None, weight_grad_T, gate_up_grad, down_grad, None


def sorted_by_expert(expert_T: Tensor, num_experts: int) -> tuple[Tensor, Tensor, int]:
    """Return the order by expert with skipping tokens last, the experts' ends and the last one."""
    order_T = torch.empty_like(expert_T, dtype=torch.int32, memory_format=torch.contiguous_format)
    ends_E = torch.empty(num_experts, dtype=torch.int32)
    expert_T = expert_T.contiguous()
    call("sort_by_expert", expert_T, expert_T.shape[0], num_experts, order_T, ends_E)
    return order_T, ends_E, int(ends_E[-1])


def taken(x_TD: Tensor, order_T: Tensor, kept: int) -> Tensor:
    """Return the rows of the first `kept` tokens of the order."""
    out_ND = x_TD.new_empty(kept, x_TD.shape[1])
    call("take_rows", x_TD, order_T, *out_ND.shape, out_ND)
    return out_ND
