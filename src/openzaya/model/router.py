"""The expert router: a small MLP on a latent state with exponential depth averaging (EDA).

Paper: II-A2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openzaya.model.config import ZayaConfig
from openzaya.model.norm import RMSNorm
from openzaya.model.precision import rules_of

SKIP_BIAS = -1.0
"""Initial and frozen balancing bias of the skip class."""


@dataclass(frozen=True, slots=True)
class Routing:
    """One layer's decision about every token."""

    expert_T: Tensor
    """Chosen class; E means skip."""
    gate_T: Tensor
    """Probability of the chosen class: the weight of its output."""
    state_TR: Tensor
    """Latent state for the next layer's router."""
    probs_TX: Tensor
    """Probability of every class, without gradient: what balancing measures."""


class RouterMLP(nn.Module):
    """Norm and three projections from the latent state to the classes.

    Paper: II.
    """

    def __init__(self, config: ZayaConfig) -> None:
        """Make the MLP of one layer."""
        super().__init__()
        width = config.router_hidden_size
        self.norm = RMSNorm(width, config.rms_norm_eps, rules_of(config.precision))
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, config.num_choices, bias=False)

    def forward(self, state_TR: Tensor) -> Tensor:
        """Return the scores of all classes, the skip class last."""
        hidden_TR = F.gelu(self.fc1(self.norm(state_TR)))
        scores_TX: Tensor = self.out_proj(F.gelu(self.fc2(hidden_TR)))
        return scores_TX


class Router(nn.Module):
    """Choose one expert per token, or none.

    The balancing bias moves the choice, never the weight; gradient reaches the router through the
    weight and through the state handed to the next layer.

    Paper: II.
    Deviation: D-001.
    Deviation: D-003.
    """

    router_states_scale: Tensor
    balancing_biases: Tensor

    def __init__(self, config: ZayaConfig, layer: int) -> None:
        """Make the router of one layer; the first has no depth average to scale."""
        super().__init__()
        self.rules = rules_of(config.precision)
        self.down_proj = nn.Linear(config.hidden_size, config.router_hidden_size)
        self.averages = layer > 0
        if self.averages:
            self.router_states_scale = nn.Parameter(torch.ones(config.router_hidden_size))
        self.router_mlp = RouterMLP(config)
        balance_X = torch.zeros(config.num_choices, dtype=torch.float32)
        balance_X[-1] = SKIP_BIAS
        self.register_buffer("balancing_biases", balance_X)

    def forward(self, h_TD: Tensor, previous_TR: Tensor | None, replay_T: Tensor | None) -> Routing:
        """Route packed rows; `replay_T` replaces the choice and leaves the weight live."""
        state_TR = self.down_proj(h_TD)
        if self.averages and previous_TR is not None:
            state_TR = torch.addcmul(state_TR, previous_TR, self.router_states_scale)
        scores_TX = self.router_mlp(state_TR)
        if self.rules.fp32_router:
            scores_TX = scores_TX.float()
        probs_TX = scores_TX.softmax(dim=-1)
        free_TX = probs_TX.detach()
        if replay_T is None:
            expert_T = (free_TX.float() + self.balancing_biases).argmax(dim=-1)
        else:
            expert_T = replay_T
        gate_T = probs_TX.gather(-1, expert_T.unsqueeze(-1)).squeeze(-1)
        return Routing(expert_T, gate_T.to(h_TD.dtype), state_TR, free_TX)
