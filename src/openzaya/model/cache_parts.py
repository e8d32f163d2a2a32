"""What a cache is made of, and how much of it fits into a given memory.

Paper: II; IV-D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.model.addresses import LEAD
from openzaya.model.blocks import BLOCK_TOKENS
from openzaya.model.config import ZayaConfig
from openzaya.model.precision import PAPER, raise_to_fp32, rules_of


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The tail of a sequence at one position, in all layers."""

    conv_LRC: Tensor
    """Inputs of the convolutions at the last two tokens, older first; R = 2."""
    delayed_LW: Tensor
    """Delayed half of the last token's values."""

    @property
    def nbytes(self) -> int:
        """Bytes of both parts."""
        return self.conv_LRC.nbytes + self.delayed_LW.nbytes


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledBlock:
    """A block that a pass filled, with the state at its end."""

    slot: int
    """Whose block."""
    index: int
    """Which block of the sequence."""
    state: State
    """What a sequence that continues there looks back on."""


def make_stores(
    config: ZayaConfig, kind: str, count: int, dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return the keys and values of all blocks of the layers of one type."""
    shape = (config.layer_types.count(kind), count, config.num_key_value_heads)
    width = config.head_dim
    # Zeros, not empty: a masked position has weight zero, but zero times NaN is NaN.
    return (
        torch.zeros((*shape, width, BLOCK_TOKENS), dtype=dtype, device=device),
        torch.zeros((*shape, BLOCK_TOKENS, width), dtype=dtype, device=device),
    )


def state_dtype_of(config: ZayaConfig, dtype: torch.dtype) -> torch.dtype:
    """Return what conv and value state are kept in beside keys of `dtype`."""
    is_paper = rules_of(config.precision) is PAPER
    return raise_to_fp32(torch.empty(0, dtype=dtype)).dtype if is_paper else dtype


def blocks_within(config: ZayaConfig, budget_bytes: int, dtype: torch.dtype) -> dict[str, int]:
    """Return how many blocks of every layer type fit into a memory, as many of each.

    The state that is kept with every reusable block is counted. Raises ConfigError for a memory
    that holds not even one.
    """
    layers = config.num_hidden_layers
    state = LEAD * config.conv_channels + config.kv_channels // 2
    each = layers * (
        2 * config.kv_channels * BLOCK_TOKENS * dtype.itemsize
        + state * state_dtype_of(config, dtype).itemsize
    )
    count = budget_bytes // each
    if count < 1:
        raise ConfigError(
            f"{budget_bytes} bytes hold no block of {BLOCK_TOKENS} tokens, which takes {each}; "
            "give the cache more memory"
        )
    return dict.fromkeys(config.layer_types, count)
