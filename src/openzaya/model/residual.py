"""Learned scaling of a layer's output and of the residual stream where they meet.

Paper: II.
"""

import torch
from torch import Tensor, nn

from openzaya.model.precision import Rules
from openzaya.model.rows import tiles

Context = torch.autograd.function.FunctionCtx


class ResidualScaling(nn.Module):
    """Add a branch to the stream, each shifted and then scaled per channel.

    The bias is added before the scale, so the paper's beta is our bias times our scale.

    Paper: II.
    Deviation: D-002.
    """

    hidden_states_scale: Tensor
    hidden_states_bias: Tensor
    residual_scale: Tensor
    residual_bias: Tensor

    def __init__(self, width: int, rules: Rules) -> None:
        """Make the scaling of a stream of `width` channels; it starts as a plain sum."""
        super().__init__()
        self.rules = rules
        self.hidden_states_scale = nn.Parameter(torch.ones(width))
        self.hidden_states_bias = nn.Parameter(torch.zeros(width))
        self.residual_scale = nn.Parameter(torch.ones(width))
        self.residual_bias = nn.Parameter(torch.zeros(width))

    def forward(self, branch_TD: Tensor, stream_TD: Tensor) -> Tensor:
        """Return the new stream, in the stream's dtype (fp32 whatever the weights are)."""
        if branch_TD.dtype == stream_TD.dtype == self.residual_scale.dtype:
            if torch.is_grad_enabled():
                sum_TD: Tensor = _AddScaled.apply(  # type: ignore[no-untyped-call]
                    branch_TD,
                    stream_TD,
                    self.hidden_states_scale,
                    self.hidden_states_bias,
                    self.residual_scale,
                    self.residual_bias,
                )
                return sum_TD
            shift_D = torch.addcmul(
                self.residual_bias * self.residual_scale,
                self.hidden_states_bias,
                self.hidden_states_scale,
            )
            kept_TD = torch.addcmul(shift_D, stream_TD, self.residual_scale)
            return torch.addcmul(kept_TD, branch_TD, self.hidden_states_scale)
        if self.rules.fp32_residual:
            branch_TD = branch_TD.float()
        branch_TD = (branch_TD + self.hidden_states_bias) * self.hidden_states_scale
        return branch_TD + (stream_TD + self.residual_bias) * self.residual_scale


class _AddScaled(torch.autograd.Function):
    """The same sum with one pass over the rows each way, a cacheful at a time."""

    @staticmethod
    def forward(ctx: Context, *args: Tensor) -> Tensor:
        branch_TD, stream_TD, branch_scale_D, branch_bias_D, scale_D, bias_D = args
        ctx.save_for_backward(*args)
        shift_D = torch.addcmul(bias_D * scale_D, branch_bias_D, branch_scale_D)
        sum_TD = torch.empty_like(stream_TD)
        for branch, stream, out in tiles(branch_TD, stream_TD, sum_TD):
            torch.addcmul(shift_D, stream, scale_D, out=out)
            out.addcmul_(branch, branch_scale_D)
        return sum_TD

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, ...]:
        branch_TD, stream_TD, *vectors = ctx.saved_tensors  # type: ignore[attr-defined]
        branch_scale_D, branch_bias_D, scale_D, bias_D = vectors
        grad_TD = grads[0].contiguous()
        branch_grad_TD, stream_grad_TD = torch.empty_like(branch_TD), torch.empty_like(stream_TD)
        total_D, with_branch_D, with_stream_D = (torch.zeros_like(scale_D) for _ in range(3))
        for grad, branch, stream, branch_grad, stream_grad in tiles(
            grad_TD, branch_TD, stream_TD, branch_grad_TD, stream_grad_TD
        ):
            total_D += grad.sum(dim=0)
            with_branch_D += torch.mul(grad, branch, out=branch_grad).sum(dim=0)
            with_stream_D += torch.mul(grad, stream, out=stream_grad).sum(dim=0)
            torch.mul(grad, branch_scale_D, out=branch_grad)
            torch.mul(grad, scale_D, out=stream_grad)
        return (
            branch_grad_TD,
            stream_grad_TD,
            torch.addcmul(with_branch_D, branch_bias_D, total_D),
            total_D * branch_scale_D,
            torch.addcmul(with_stream_D, bias_D, total_D),
            total_D * scale_D,
        )
