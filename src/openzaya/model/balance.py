"""Keeping the experts equally busy by moving the routers' balancing biases.

Paper: II.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.distances import NUM_BINS, bincount, distances, even_distances, histograms
from openzaya.model.zaya import Zaya

Method = Literal["adam", "distance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """How the biases move.

    Paper: II.
    Source: AMD-AGI/Primus for the learning rate, which the papers leave open.
    """

    method: Method = "adam"
    """adam = the paper's, on the load error alone; distance = by the measured way to an even load,
    for routers that change faster than a fixed rate follows. Deviation: D-044."""
    pace: float = 0.7
    """With distance: the part of the way that a bias goes in a step. All biases move at once, so
    that the whole way would be too far."""
    learning_rate: float = 1e-3
    """Most that a bias moves per optimizer step, roughly; in units of router probability. 0 = the
    biases stay, with either method."""
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
        if not 0 < self.pace <= 1:
            raise ConfigError(f"pace is {self.pace}; it is a part of the way, choose it in (0, 1]")


class RouterBalancer:
    """Moves the biases once per optimizer step, by everything observed since the last.

    With Adam the error of an expert is its share of the tokens that went to experts, minus 1/E. The
    skip class is counted apart and its bias stays. The mean over the experts is subtracted after
    each step, so that the biases never drift against the skip class.

    Paper: II.
    Deviation: D-005.
    Deviation: D-044.
    """

    def __init__(self, model: Zaya, config: BalanceConfig | None = None) -> None:
        """Own the balancing biases of `model`; have it return what the method needs."""
        self.config = config or BalanceConfig()
        self.num_experts = model.config.num_experts
        self._biases = model.router_biases()
        shape = (len(self._biases), self.num_experts)
        device = model.device
        measures = self.config.method == "distance"
        model.keeps_probs = measures
        choices, bins = self.num_experts + 1, self.num_experts * NUM_BINS if measures else 0
        self.tally_LN = torch.zeros((shape[0], choices + bins), dtype=torch.float64, device=device)
        """All that was observed since the last step; what ranks observed adds up."""
        self.counts_LX = self.tally_LN[:, :choices]
        """Tokens per layer and class, a view of the tally; the skip class last."""
        self.histograms_LN = self.tally_LN[:, choices:]
        """Histogram of each expert's distances, a view of the tally; empty with Adam."""
        self.last_LX = torch.zeros_like(self.counts_LX)
        """The counts of the last step."""
        self.mean_LE = torch.zeros(shape, dtype=torch.float32, device=device)
        self.square_LE = torch.zeros(shape, dtype=torch.float32, device=device)
        self.num_steps = 0

    @torch.no_grad()
    def observe(self, experts_TL: Tensor, probs_TLX: Tensor | None = None) -> None:
        """Count one micro-batch's choices; with data parallelism, sum `tally_LN` before `step`.

        The probabilities are those of the forward pass, made with the present biases; only
        distance uses them, and it needs them.
        """
        layers, choices = self.counts_LX.shape
        offsets_L = torch.arange(layers, device=experts_TL.device) * choices
        flat_N = (experts_TL + offsets_L).flatten()
        self.counts_LX += bincount(flat_N, layers * choices).view(layers, choices)
        if self.config.method == "adam":
            return
        assert probs_TLX is not None, "the model keeps its probabilities when this is made"
        # Layer by layer: the distances of all would take several times the memory.
        for layer, balance_X in enumerate(self._biases):
            distance_TE = distances(probs_TLX[:, layer], balance_X)
            self.histograms_LN[layer] += histograms(distance_TE).flatten()

    def forget(self) -> None:
        """Start observing anew."""
        self.tally_LN.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move the biases towards an even load and start observing anew.

        A layer that sent no token to any expert is left as it is. Without observations nothing
        happens at all.
        """
        if not bool(self.counts_LX.any()):
            return
        self.num_steps += 1
        move_LE = self._by_adam() if self.config.method == "adam" else self._by_distance()
        for balance_X, move_E in zip(self._biases, move_LE, strict=True):
            if self.config.learning_rate:  # else a finished model keeps its mean, too
                balance_X[:-1] += move_E
                balance_X[:-1] -= balance_X[:-1].mean()
        self.last_LX.copy_(self.counts_LX)
        self.forget()

    def _by_distance(self) -> Tensor:
        """Return a part of each bias's way to where its expert would get 1/E of the tokens."""
        routed_L = self.counts_LX[:, :-1].sum(dim=-1)
        histogram_LEH = self.histograms_LN.view(-1, self.num_experts, NUM_BINS)
        way_LE = even_distances(histogram_LEH, routed_L / self.num_experts)
        return (self.config.pace * way_LE).masked_fill(routed_L.unsqueeze(-1) == 0, 0.0)

    def _by_adam(self) -> Tensor:
        """Return Adam's step against the load error."""
        config = self.config
        counts_LE = self.counts_LX[:, :-1]
        total_L1 = counts_LE.sum(dim=-1, keepdim=True)
        error_LE = (counts_LE / total_L1.clamp_min(1) - 1 / self.num_experts).float()
        error_LE = error_LE.masked_fill(total_L1 == 0, 0.0)
        self.mean_LE.lerp_(error_LE, 1 - config.beta1)
        self.square_LE.lerp_(error_LE.square(), 1 - config.beta2)
        mean_LE = self.mean_LE / (1 - config.beta1**self.num_steps)
        root_LE = (self.square_LE / (1 - config.beta2**self.num_steps)).sqrt()
        return -config.learning_rate * mean_LE / (root_LE + config.eps)

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
        state = {name: tensor.clone() for name, tensor in self._tensors().items()}
        return state | {"num_steps": torch.tensor(self.num_steps, dtype=torch.int64)}

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "counts": self.tally_LN,
            "last": self.last_LX,
            "mean": self.mean_LE,
            "square": self.square_LE,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`; raises CheckpointError when it does not fit the model."""
        own = self._tensors()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise CheckpointError(
                    f"balancer state {name!r} is {found}; expected shape {tuple(tensor.shape)}: "
                    "the checkpoint is of another model or another way of balancing"
                )
        if "num_steps" not in state:
            raise CheckpointError("balancer state has no 'num_steps'; expected one number")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.num_steps = int(state["num_steps"])
