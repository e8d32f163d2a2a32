"""Low-rank adapters: train a small addition to some matrices, merge it, or keep it apart.

The router and its balancing biases are never adapted: a choice of expert that moves with every
batch is what fine-tuning least needs. `model/adapter_files.py` writes and reads adapters alone.

Letters: O rows, I columns of a matrix, R rank; stacks have the expert in front.

Source: arXiv:2106.09685.
Deviation: D-043.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from openzaya.core.errors import ConfigError
from openzaya.model.zaya import Zaya

Target = Literal["attention", "experts"]
ATTENTION = ("q_proj", "k_proj", "v_proj_current", "v_proj_delayed", "o_proj")
EXPERTS = ("gate_up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """What is adapted, and how strongly."""

    rank: int = 16
    """R: rank of every addition."""
    alpha: float = 32.0
    """The addition counts alpha / rank."""
    targets: tuple[Target, ...] = ("attention",)
    """attention: its projections. experts: both stacks of every layer. Never the router."""

    def __post_init__(self) -> None:
        """Check the settings. Raises ConfigError."""
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise ConfigError(
                f"rank is {self.rank} and alpha {self.alpha}; choose rank >= 1 and "
                "a finite alpha > 0"
            )
        strange = [name for name in self.targets if name not in ("attention", "experts")]
        if strange or not self.targets:
            raise ConfigError(
                f"targets are {list(self.targets)}; choose from attention and experts, which leave "
                "the router as it is"
            )


class LowRank(nn.Module):
    """Adds scale * B A to a matrix, or to every matrix of a stack."""

    lora_a: Tensor
    lora_b: Tensor

    def __init__(self, weight: Tensor, config: LoraConfig, generator: torch.Generator) -> None:
        """Draw A and start B at zero, so that nothing changes at first."""
        super().__init__()
        self.config = config
        *stack, rows, columns = weight.shape
        a = torch.empty(*stack, config.rank, columns, dtype=torch.float32)
        a.normal_(0.0, 1 / math.sqrt(columns), generator=generator)
        b = torch.zeros(*stack, rows, config.rank, dtype=torch.float32)
        # fp32 whatever the weights are: the additions are small.
        self.lora_a = nn.Parameter(a.to(weight.device))
        self.lora_b = nn.Parameter(b.to(weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight in its own dtype."""
        return self.adapt(weight, self.lora_a, self.lora_b)

    def adapt(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return a weight adapted by factors that lie elsewhere than in this module."""
        scale = self.config.alpha / self.config.rank
        return weight + (b @ a).mul(scale).to(weight.dtype)


def add_lora(model: Zaya, config: LoraConfig, seed: int = 0) -> None:
    """Freeze the model and add adapters; raises ConfigError where it has some already."""
    if list(adapters(model)):
        raise ConfigError("the model has adapters already; merge them first")
    model.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    for module, name in list(_places(model, config.targets)):
        weight = getattr(module, name)
        parametrize.register_parametrization(
            module, name, LowRank(weight.detach(), config, generator)
        )


def merge_lora(model: Zaya) -> None:
    """Add the adapters into the weights for good and make all parameters trainable again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    model.requires_grad_(requires_grad=True)


def adapters(model: Zaya) -> Iterator[tuple[str, LowRank]]:
    """Yield every adapter with the name of the parameter that it adapts."""
    for path, module in model.named_modules():
        if isinstance(module, LowRank):
            yield path.replace(".parametrizations.", ".").rpartition(".")[0], module


def _places(model: Zaya, targets: Sequence[Target]) -> Iterator[tuple[nn.Module, str]]:
    for path, module in model.named_modules():
        last = path.rpartition(".")[2]
        if "attention" in targets and last in ATTENTION and isinstance(module, nn.Linear):
            yield module, "weight"
        if "experts" in targets and last == "experts":
            for name in EXPERTS:
                yield module, name
