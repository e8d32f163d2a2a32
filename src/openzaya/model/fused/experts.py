"""Grouped experts in one autograd function: two gathers, two grouped products, one region.

No loop over experts and nothing that waits for the device. Letters as in `regions`; E experts,
F both halves of the experts' first product.

Paper: II.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.fused.regions import gated, gated_backward


def mix_experts(
    h_TD: Tensor, expert_T: Tensor, weight_T: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """Return each row through its expert, times its weight in fp32; the stacks as in `Experts`.

    Every row passes an expert; give a row that must not count the weight 0 and any expert.
    """
    out_TD: Tensor = _Mix.apply(h_TD, expert_T, weight_T, gate_up, down)  # type: ignore[no-untyped-call]
    return out_TD


class _Mix(torch.autograd.Function):
    """Keeps the input, the first product and the order; the rest is computed again.

    The weight's gradient needs no output of the experts: <g, W h> = <W' g, h>.
    """

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Tensor:
        h_TD, expert_T, weight_T, gate_up, down = args
        order_T, inverse_T, ends_E = sorted_by_expert(expert_T, gate_up.shape[0])
        both_TF = grouped(h_TD.index_select(0, order_T), gate_up.mT, ends_E)
        out_TD = grouped(gated(both_TF), down.mT, ends_E).index_select(0, inverse_T)
        ctx.save_for_backward(h_TD, weight_T, gate_up, down, both_TF, order_T, inverse_T, ends_E)
        return out_TD.mul_(weight_T.unsqueeze(-1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_TD, weight_T, gate_up, down, both_TF, order_T, inverse_T, ends_E = ctx.saved_tensors
        grad_TD = grads[0].index_select(0, order_T)
        hidden_grad = grouped(grad_TD, down, ends_E)
        hidden, both_grad_TF, weight_grad_T = gated_backward(
            both_TF, hidden_grad, weight_T.index_select(0, order_T)
        )
        down_grad = grouped(grad_TD.t(), hidden, ends_E)
        del hidden, hidden_grad, grad_TD
        x_TD = h_TD.index_select(0, order_T)
        gate_up_grad = grouped(both_grad_TF.t(), x_TD, ends_E)
        h_grad_TD = grouped(both_grad_TF, gate_up, ends_E).index_select(0, inverse_T)
        weight_grad_T = weight_grad_T.index_select(0, inverse_T)
        return h_grad_TD, None, weight_grad_T, gate_up_grad, down_grad


def sorted_by_expert(expert_T: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order by expert, its inverse and the end of every expert's rows (int32)."""
    narrow_T = expert_T.to(torch.int16)
    sorted_T, order_T = torch.sort(narrow_T, stable=True)
    inverse_T = torch.empty_like(order_T)
    inverse_T[order_T] = torch.arange(order_T.shape[0], device=order_T.device)
    experts_E = torch.arange(num_experts, dtype=torch.int16, device=sorted_T.device)
    ends_E = torch.searchsorted(sorted_T, experts_E, right=True).to(torch.int32)
    return order_T, inverse_T, ends_E


def grouped(a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
    """Return torch's grouped product, under the name that this release gives it."""
    product = getattr(F, "grouped_mm", None) or torch._grouped_mm
    out: Tensor = product(a, b, offs=ends_E)
    return out


def reason_against_grouping(dtype: torch.dtype, device: torch.device, widths: list[int]) -> str:
    """Return why torch's grouped product does not take such rows; "" when it does."""
    if not (hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")):
        return "this torch has no grouped product; expected torch >= 2.9"
    if dtype is torch.float32 and device.type == "cpu":
        multiple = 4
    elif dtype is torch.bfloat16:
        multiple = 8
    else:
        return f"the weights are {dtype} on {device.type}, expected bfloat16"
    uneven = [width for width in widths if width % multiple]
    return f"a width is {uneven[0]}, expected a multiple of {multiple}" if uneven else ""
