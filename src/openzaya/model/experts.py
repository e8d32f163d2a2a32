"""The experts: gated MLPs of which every token visits one, or none.

Paper: II.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openzaya.model.config import ZayaConfig
from openzaya.model.router import Router, Routing
from openzaya.model.rows import put_rows, take_rows, tiles

Context = torch.autograd.function.FunctionCtx


class Experts(nn.Module):
    """All experts of a layer as two stacks, in the layout of the checkpoint.

    Paper: II.
    """

    gate_up_proj: Tensor
    down_proj: Tensor
    are_elsewhere = False
    """Some of the experts are on other ranks (expert parallelism)."""

    def __init__(self, config: ZayaConfig) -> None:
        """Make the stacks; rows 0..F-1 of `gate_up_proj` are the gate, F..2F-1 the input."""
        super().__init__()
        shape = (config.num_experts, config.hidden_size, config.moe_intermediate_size)
        experts, width, inner = shape
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))

    def forward(self, x_ND: Tensor, counts: list[int], weight_N: Tensor | None = None) -> Tensor:
        """Apply expert e to the next `counts[e]` of N rows, which are sorted by expert.

        `weight_N` multiplies the rows of the result; it is taken on a CPU in training only.
        """
        if x_ND.device.type == "cpu" or not can_group(x_ND, self.gate_up_proj, self.down_proj):
            out_ND: Tensor = _ExpertLoop.apply(  # type: ignore[no-untyped-call]
                x_ND, self.gate_up_proj, self.down_proj, counts, weight_N
            )
            return out_ND
        assert weight_N is None, "see takes_weights"
        ends_E = torch.tensor(counts, device=x_ND.device).cumsum(0).to(torch.int32)
        both = F.grouped_mm(x_ND, self.gate_up_proj.mT, offs=ends_E)
        gate_NF, up_NF = both.chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate_NF) * up_NF, self.down_proj.mT, offs=ends_E)

    def takes_weights(self, x_ND: Tensor) -> bool:
        """Tell whether `forward` can multiply its result by weights, which spares passes."""
        wide = x_ND.dtype == self.down_proj.dtype == torch.float32
        return wide and x_ND.device.type == "cpu" and torch.is_grad_enabled()


def can_group(x_ND: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> bool:
    """Tell whether torch's grouped product takes these tensors: rows of 16-byte multiples."""
    widths = (x_ND.shape[-1], gate_up_EGD.shape[-2], down_EDF.shape[-1])
    aligned = all(width * x_ND.element_size() % 16 == 0 for width in widths)
    return hasattr(F, "grouped_mm") and x_ND.dtype is torch.bfloat16 and aligned


class _ExpertLoop(torch.autograd.Function):
    """One plain product per expert that has tokens, written into shared outputs.

    On CPU this is as fast as a grouped product for many tokens, and for few tokens it reads only
    the experts that were hit, which keeps the others of a memory-mapped model on disk.
    """

    @staticmethod
    def forward(ctx: Context, *args: object) -> Tensor:
        x_ND, gate_up, down, counts, weight_N = args
        assert isinstance(x_ND, Tensor)
        assert isinstance(gate_up, Tensor)
        assert isinstance(down, Tensor)
        assert isinstance(counts, list)
        both = x_ND.new_empty(x_ND.shape[0], gate_up.shape[1])
        for expert, rows in _spans(counts):
            torch.mm(x_ND[rows], gate_up[expert].t(), out=both[rows])
        gate_NF, up_NF = both.chunk(2, dim=-1)
        hidden_NF = F.silu(gate_NF).mul_(up_NF)
        assert weight_N is None or isinstance(weight_N, Tensor)
        if weight_N is not None:
            hidden_NF.mul_(weight_N.unsqueeze(-1))
        out_ND = torch.empty_like(x_ND)
        for expert, rows in _spans(counts):
            torch.mm(hidden_NF[rows], down[expert].t(), out=out_ND[rows])
        ctx.save_for_backward(x_ND, gate_up, down, both, hidden_NF, weight_N)  # type: ignore[arg-type]
        ctx.counts = counts  # type: ignore[attr-defined]
        return out_ND

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate_up, down, both, hidden_NF, weight_N = ctx.saved_tensors  # type: ignore[attr-defined]
        counts: list[int] = ctx.counts  # type: ignore[attr-defined]
        grad_ND = grads[0].contiguous()
        hidden_grad_NF = torch.empty_like(hidden_NF)
        down_grad = torch.empty_like(down)
        for expert, rows in _spans(counts):
            torch.mm(grad_ND[rows], down[expert], out=hidden_grad_NF[rows])
            torch.mm(grad_ND[rows].t(), hidden_NF[rows], out=down_grad[expert])
        both_grad = torch.empty_like(both)
        weight_grad_N = None if weight_N is None else torch.empty_like(weight_N)
        _gated_backward(both, hidden_grad_NF, (weight_N, weight_grad_N), both_grad)
        x_grad_ND = torch.empty_like(x_ND)
        gate_up_grad = torch.empty_like(gate_up)
        for expert, rows in _spans(counts):
            torch.mm(both_grad[rows], gate_up[expert], out=x_grad_ND[rows])
            torch.mm(both_grad[rows].t(), x_ND[rows], out=gate_up_grad[expert])
        for expert, count in enumerate(counts):
            if not count:
                down_grad[expert] = 0
                gate_up_grad[expert] = 0
        return x_grad_ND, gate_up_grad, down_grad, None, weight_grad_N


def _gated_backward(
    both: Tensor,
    hidden_grad_NF: Tensor,
    weights: tuple[Tensor | None, Tensor | None],
    both_grad: Tensor,
) -> None:
    """Fill the gradients of gate and input, and of the weights where there are some."""
    weight_N, weight_grad_N = weights
    none = hidden_grad_NF.new_empty(hidden_grad_NF.shape[0])
    weight_in, weight_out = (none if x is None else x for x in (weight_N, weight_grad_N))
    for grad, pair, pair_grad, weight, weight_grad in tiles(
        hidden_grad_NF, both, both_grad, weight_in, weight_out
    ):
        gate, up = pair.chunk(2, dim=-1)
        gate_grad, up_grad = pair_grad.chunk(2, dim=-1)
        silu = F.silu(gate)
        if weight_N is not None:
            torch.sum(torch.mul(silu, up).mul_(grad), dim=-1, out=weight_grad)
            grad.mul_(weight.unsqueeze(-1))
        torch.mul(grad, silu, out=up_grad)
        torch.ops.aten.silu_backward(grad.mul_(up), gate, grad_input=gate_grad)


def _spans(counts: list[int]) -> list[tuple[int, slice]]:
    """Return the experts that have rows, each with its rows."""
    spans: list[tuple[int, slice]] = []
    start = 0
    for expert, count in enumerate(counts):
        if count:
            spans.append((expert, slice(start, start + count)))
        start += count
    return spans


class MixtureOfExperts(nn.Module):
    """Router and experts of one layer.

    A token whose class is the last one skips: it adds nothing, or its gate times the layer's
    input, by the config's `skip_mode`.

    Paper: II.
    Deviation: D-001.
    """

    def __init__(self, config: ZayaConfig, layer: int) -> None:
        """Make the mixture of one layer."""
        super().__init__()
        self.identity_skip = config.skip_mode == "identity"
        self.num_choices = config.num_choices
        self.gate = Router(config, layer)
        self.experts = Experts(config)

    def forward(
        self, h_TD: Tensor, previous_TR: Tensor | None, replay_T: Tensor | None
    ) -> tuple[Tensor, Routing]:
        """Return the mixture's output of packed normed rows, and the routing."""
        routing: Routing = self.gate(h_TD, previous_TR, replay_T)
        return self.mix(h_TD, routing), routing

    def mix(self, h_TD: Tensor, routing: Routing) -> Tensor:
        """Return the mixture's output of routed rows."""
        order_T = torch.argsort(routing.expert_T, stable=True)
        counts: list[int] = routing.expert_T.bincount(minlength=self.num_choices).tolist()
        num_skipped = counts.pop()
        # The skip class is the last one, so its tokens are at the end of the sorted order.
        kept_N = order_T[: order_T.shape[0] - num_skipped]
        x_ND = take_rows(h_TD, kept_N)
        if self.experts.takes_weights(h_TD):
            out_ND = self.experts(x_ND, counts, routing.gate_T[kept_N])
            out_TD = put_rows(out_ND, kept_N, h_TD.shape[0])
            if self.identity_skip and num_skipped:
                skipped_T = routing.expert_T == self.num_choices - 1
                out_TD = out_TD + h_TD * (routing.gate_T * skipped_T).unsqueeze(-1)
            return out_TD
        out_TD = put_rows(self.experts(x_ND, counts), kept_N, h_TD.shape[0])
        if self.identity_skip and num_skipped:
            skipped_T1 = (routing.expert_T == self.num_choices - 1).unsqueeze(-1)
            out_TD = torch.where(skipped_T1, h_TD, out_TD)
        return out_TD * routing.gate_T.unsqueeze(-1)
