"""Learned scaling of a layer's output and of the residual stream where they meet.

Paper: II.
"""

import torch
from torch import Tensor, nn

from openzaya.model.precision import Rules


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
