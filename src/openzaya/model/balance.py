"""Keep the experts' load even by moving the balancing biases, outside of the loss.

Paper: II-A2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.model.zaya import Zaya


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """The controller's settings; the paper names AdamW on p - 1/E and gives no constants.

    Deviation: D-005.
    """

    lr: float = 1e-3
    """Step of a bias, in units of probability."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two averages."""
    eps: float = 1e-8
    """Guard against division by zero."""


class RouterBalancer:
    """Counts loads over the whole optimizer step and moves the biases once.

    The error is each expert's share of the routed tokens minus 1/E; skipped tokens are not
    counted and the skip bias stays as it is. Biases keep mean zero over the experts.

    Paper: II-A2.
    Deviation: D-005.
    """

    def __init__(self, model: Zaya, config: BalanceConfig | None = None) -> None:
        """Start with empty counts for the layers of `model`."""
        self.config = config or BalanceConfig()
        self.biases = model.router_biases()
        self.num_experts = model.config.num_experts
        shape = (len(self.biases), self.num_experts)
        device = model.device
        self.counts_LX = torch.zeros(shape[0], shape[1] + 1, dtype=torch.int64, device=device)
        self.first_LE = torch.zeros(shape, device=device)
        self.second_LE = torch.zeros(shape, device=device)
        self.num_steps = 0

    def observe(self, experts_TL: Tensor) -> None:
        """Add the choices of one forward pass; E means skip."""
        choices = self.num_experts + 1
        layers = experts_TL.shape[1]
        offsets_L = torch.arange(layers, device=experts_TL.device) * choices
        flat_N = (experts_TL + offsets_L).flatten()
        self.counts_LX += torch.bincount(flat_N, minlength=layers * choices).view(layers, choices)

    def shares(self) -> Tensor:
        """Return each expert's share of the routed tokens counted so far, [L, E]."""
        routed_LE = self.counts_LX[:, :-1].float()
        return routed_LE / routed_LE.sum(dim=1, keepdim=True).clamp_min(1.0)

    def load_entropy(self) -> list[float]:
        """Return H(share) / ln E of every layer: 1 is perfectly even. Paper: Fig. 4."""
        shares_LE = self.shares()
        entropy_L = -(shares_LE * shares_LE.clamp_min(1e-12).log()).sum(dim=1)
        return [float(x) for x in entropy_L / math.log(self.num_experts)]

    def skip_fraction(self) -> float:
        """Return the share of all choices that were the skip class."""
        return float(self.counts_LX[:, -1].sum() / self.counts_LX.sum().clamp_min(1))

    @torch.no_grad()
    def step(self, *, apply: bool = True) -> None:
        """Move the biases once by what was counted (unless not `apply`) and forget the counts."""
        error_LE = self.shares() - 1.0 / self.num_experts
        self.counts_LX.zero_()
        if not apply:
            return
        self.num_steps += 1
        beta1, beta2 = self.config.betas
        self.first_LE.lerp_(error_LE, 1 - beta1)
        self.second_LE.lerp_(error_LE.square(), 1 - beta2)
        mean_LE = self.first_LE / (1 - beta1**self.num_steps)
        scale_LE = (self.second_LE / (1 - beta2**self.num_steps)).sqrt() + self.config.eps
        for balance_X, move_E in zip(self.biases, mean_LE / scale_LE, strict=True):
            balance_X[:-1] -= self.config.lr * move_E
            balance_X[:-1] -= balance_X[:-1].mean()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages and the step count; the biases belong to the model."""
        return {
            "first": self.first_LE,
            "second": self.second_LE,
            "step": torch.tensor(self.num_steps),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state in. Raises CheckpointError when its shape is another model's."""
        if state["first"].shape != self.first_LE.shape:
            raise CheckpointError(
                f"balancer state has shape {tuple(state['first'].shape)}, the model needs "
                f"{tuple(self.first_LE.shape)}; resume with the model it was saved from"
            )
        self.first_LE.copy_(state["first"])
        self.second_LE.copy_(state["second"])
        self.num_steps = int(state["step"])
