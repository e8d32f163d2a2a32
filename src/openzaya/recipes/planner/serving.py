"""What one device can serve: sequences that fit, and the tokens a second that its rates allow.

Decoding reads what it multiplies: a step of B sequences reads every dense weight once, the experts
that at least one of B tokens chose, and all keys and values. No engine reaches these bounds.

Paper: II (two key heads, convolutions of two taps, a value delayed by one token).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import SLIDING
from openzaya.recipes.planner.flops import token_flops
from openzaya.recipes.planner.hardware import Device
from openzaya.recipes.planner.memory import USABLE
from openzaya.recipes.planner.parameters import parameters

BF16 = 2
BLOCK = 64
"""Positions that the engine reserves at a time."""
WEIGHT_BYTES: Mapping[str, float] = {
    "bf16": 2.0,
    "int8": 1 + BF16 / 64,
    "int4": 1 / 2 + BF16 / 32,
}
"""Bytes of a weight by format: integers with a bf16 scale for 64 or 32 of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What one device serves with weights in one format."""

    weights: str
    """Format."""
    weight_bytes: float
    """All weights."""
    context_tokens: int
    """Length that every sequence is planned with."""
    kv_bytes: float
    """Keys and values of a sequence of that length."""
    state_bytes: float
    """Convolution inputs and delayed values of a sequence of any length."""
    sequences: int
    """Sequences of that length that fit beside the weights."""
    single_per_s: float
    """Most tokens a second of one sequence alone."""
    full_per_s: float
    """Most tokens a second of all sequences together."""
    bound: str
    """What limits them together: `memory` or `compute`."""


def kv_bytes(config: ZayaConfig, context_tokens: int) -> float:
    """Return the keys and values of a sequence in bf16, in whole blocks.

    A sliding layer keeps its window and the block that the window is leaving.
    """
    total = 0
    for kind in config.layer_types:
        blocks = -(-context_tokens // BLOCK)
        if kind == SLIDING and config.sliding_window is not None:
            blocks = min(blocks, -(-config.sliding_window // BLOCK) + 1)
        total += blocks * BLOCK
    return 2.0 * BF16 * config.kv_channels * total


def state_bytes(config: ZayaConfig) -> float:
    """Return two rows of queries with keys and half a row of values for each layer, in bf16."""
    row = 2 * config.conv_channels + config.kv_channels // 2
    return float(BF16 * config.num_hidden_layers * row)


def stored_bytes(config: ZayaConfig, weights: str) -> tuple[float, float]:
    """Return the bytes of the expert stacks and of everything else.

    Quantized folders keep routers, convolutions and vectors in bf16.
    """
    count = parameters(config)
    layers, width = config.num_hidden_layers, config.hidden_size
    q = config.num_attention_heads * config.head_dim
    integers = count.embedding + layers * width * (2 * q + 2 * config.kv_channels)
    rest = count.total - count.expert_matrices - integers
    size = WEIGHT_BYTES[weights]
    return count.expert_matrices * size, integers * size + rest * BF16


def step_bytes(config: ZayaConfig, weights: str, batch: int, context_tokens: int) -> float:
    """Return what one decoding step of `batch` sequences reads.

    A token picks one of E experts; of B tokens with equal odds 1 - (1 - 1/E)^B of the experts are
    picked by somebody.
    """
    experts, others = stored_bytes(config, weights)
    picked = 1 - (1 - 1 / config.num_experts) ** batch
    state = kv_bytes(config, context_tokens) + state_bytes(config)
    return others + experts * picked + batch * state


def decode_per_s(
    config: ZayaConfig, weights: str, batch: int, context_tokens: int, device: Device
) -> tuple[float, str]:
    """Return the most tokens a second of `batch` sequences, and what bounds them."""
    reading = step_bytes(config, weights, batch, context_tokens) / device.bytes_per_s
    flops = token_flops(config, context_tokens)
    # The token that is decoded sees the whole context, the mean token half of it.
    attention = flops.attention * 2 * context_tokens / (context_tokens + 1)
    work = flops.forward - flops.attention + attention
    computing = batch * work / device.flops_per_s
    return batch / max(reading, computing), "memory" if reading >= computing else "compute"


def capacity(config: ZayaConfig, weights: str, context_tokens: int, device: Device) -> Capacity:
    """Return what a device serves. Raises ConfigError when the weights leave no room."""
    if weights not in WEIGHT_BYTES:
        raise ConfigError(f"weights are {weights!r}; choose among {', '.join(WEIGHT_BYTES)}")
    if not 1 <= context_tokens <= config.max_position_embeddings:
        raise ConfigError(
            f"context_tokens is {context_tokens}; the model takes 1 to "
            f"{config.max_position_embeddings}"
        )
    total = sum(stored_bytes(config, weights))
    room = device.memory_bytes * USABLE - total
    keys, state = kv_bytes(config, context_tokens), state_bytes(config)
    sequences = int(room // (keys + state))
    if sequences < 1:
        raise ConfigError(
            f"{weights} weights of {total / 1e9:.1f} GB and one sequence of {keys / 1e9:.2f} GB "
            f"need more than the {device.memory_bytes * USABLE / 1e9:.1f} GB that plans fill of "
            f"{device.name}: {(keys + state - room) / 1e9:.2f} GB are missing; try smaller "
            "weights, or a smaller serve.context_tokens"
        )
    single, _ = decode_per_s(config, weights, 1, context_tokens, device)
    full, bound = decode_per_s(config, weights, sequences, context_tokens, device)
    return Capacity(
        weights=weights,
        weight_bytes=total,
        context_tokens=context_tokens,
        kv_bytes=keys,
        state_bytes=state,
        sequences=sequences,
        single_per_s=single,
        full_per_s=full,
        bound=bound,
    )
