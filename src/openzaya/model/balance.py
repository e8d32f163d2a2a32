"""Keeping the experts equally busy by moving the routers' balancing biases.

Paper: II.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.zaya import Zaya


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """How fast the biases move.

    Paper: II.
    Source: AMD-AGI/Primus for the learning rate, which the papers leave open.
    """

    learning_rate: float = 1e-3
    """Most that a bias moves per optimizer step, roughly; in units of router probability."""
    beta1: float = 0.9
    """Decay of the running mean of the load error."""
    beta2: float = 0.95
    """Decay of the running mean of its square."""
    eps: float = 1e-8
    """Added to the root of the running square."""

    def __post_init__(self) -> None:
        """Check the ranges; raises ConfigError."""
        if self.learning_rate < 0 or self.eps <= 0:
            raise ConfigError(
                f"learning_rate is {self.learning_rate} and eps is {self.eps}; choose "
                "learning_rate >= 0 and eps > 0"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError(f"beta1 = {self.beta1}, beta2 = {self.beta2}; both must be in [0, 1)")


class RouterBalancer:
    """Adam on the load error, once per optimizer step over everything observed since the last.

    The error of an expert is its share of the tokens that went to experts, minus 1/E. The skip
    class is counted apart and its bias stays. The mean over the experts is subtracted after each
    step, so that the biases never drift against the skip class.

    Paper: II.
    Deviation: D-005.
    """

    def __init__(self, model: Zaya, config: BalanceConfig | None = None) -> None:
        """Own the balancing biases of `model`."""
        self.config = config or BalanceConfig()
        self.num_experts = model.config.num_experts
        self._biases = model.router_biases()
        shape = (len(self._biases), self.num_experts)
        device = model.device
        self.counts_LX = torch.zeros((shape[0], shape[1] + 1), dtype=torch.float64, device=device)
        """Tokens per layer and class since the last step; the skip class last."""
        self.last_LX = torch.zeros_like(self.counts_LX)
        """The counts of the last step."""
        self.mean_LE = torch.zeros(shape, dtype=torch.float32, device=device)
        self.square_LE = torch.zeros(shape, dtype=torch.float32, device=device)
        self.num_steps = 0

    def observe(self, experts_TL: Tensor) -> None:
        """Count one micro-batch's choices; with data parallelism, sum `counts_LX` before `step`."""
        layers, choices = self.counts_LX.shape
        offsets_L = torch.arange(layers, device=experts_TL.device) * choices
        flat_N = (experts_TL + offsets_L).flatten()
        if flat_N.device.type == "cpu":
            counts = flat_N.bincount(minlength=layers * choices)
        else:  # bincount would wait for the device
            zeros = flat_N.new_zeros(layers * choices)
            counts = zeros.scatter_add(0, flat_N, torch.ones_like(flat_N))
        self.counts_LX += counts.view(layers, choices)

    @torch.no_grad()
    def step(self) -> None:
        """Move the biases against the load error and start counting anew.

        A layer that sent no token to any expert is left as it is. Without observations nothing
        happens at all.
        """
        if not bool(self.counts_LX.any()):
            return
        config = self.config
        self.num_steps += 1
        counts_LE = self.counts_LX[:, :-1]
        total_L1 = counts_LE.sum(dim=-1, keepdim=True)
        error_LE = (counts_LE / total_L1.clamp_min(1) - 1 / self.num_experts).float()
        error_LE = error_LE.masked_fill(total_L1 == 0, 0.0)
        self.mean_LE.lerp_(error_LE, 1 - config.beta1)
        self.square_LE.lerp_(error_LE.square(), 1 - config.beta2)
        mean_LE = self.mean_LE / (1 - config.beta1**self.num_steps)
        root_LE = (self.square_LE / (1 - config.beta2**self.num_steps)).sqrt()
        move_LE = config.learning_rate * mean_LE / (root_LE + config.eps)
        for balance_X, move_E in zip(self._biases, move_LE, strict=True):
            balance_X[:-1] -= move_E
            balance_X[:-1] -= balance_X[:-1].mean()
        self.last_LX.copy_(self.counts_LX)
        self.counts_LX.zero_()

    def load_entropy(self) -> list[float]:
        """Return each layer's load entropy over experts, divided by ln E: 1 is perfect balance.

        It describes the tokens observed since the last step, or those of the last step when none
        were observed since. A layer without tokens, or with one expert only, gets 1.

        Paper: II.
        """
        current = self.counts_LX if bool(self.counts_LX.any()) else self.last_LX
        counts_LE = current[:, :-1]
        total_L1 = counts_LE.sum(dim=-1, keepdim=True)
        share_LE = counts_LE / total_L1.clamp_min(1)
        entropy_L = -torch.xlogy(share_LE, share_LE).sum(dim=-1)
        if self.num_experts == 1:
            return [1.0] * entropy_L.shape[0]
        scaled_L = entropy_L / math.log(self.num_experts)
        return [float(value) for value in scaled_L.masked_fill(total_L1.squeeze(-1) == 0, 1.0)]

    def skip_share(self) -> list[float]:
        """Return each layer's share of skipped tokens over the same tokens as `load_entropy`."""
        current = self.counts_LX if bool(self.counts_LX.any()) else self.last_LX
        share_L = current[:, -1] / current.sum(dim=-1).clamp_min(1)
        return [float(value) for value in share_L]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a training checkpoint needs beside the model, all as tensors."""
        return {
            "counts": self.counts_LX.clone(),
            "last": self.last_LX.clone(),
            "mean": self.mean_LE.clone(),
            "square": self.square_LE.clone(),
            "num_steps": torch.tensor(self.num_steps, dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`; raises CheckpointError when it does not fit the model."""
        own = {
            "counts": self.counts_LX,
            "last": self.last_LX,
            "mean": self.mean_LE,
            "square": self.square_LE,
        }
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise CheckpointError(
                    f"balancer state {name!r} is {found}; expected shape {tuple(tensor.shape)}: "
                    "the checkpoint is of another model"
                )
        if "num_steps" not in state:
            raise CheckpointError("balancer state has no 'num_steps'; expected one number")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.num_steps = int(state["num_steps"])
