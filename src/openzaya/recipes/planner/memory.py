"""Bytes that one rank needs while it trains.

Weights are kept as FSDP2 with mixed precision keeps them: fp32, divided over the shard group, with
gradients alike; a layer is gathered in the format of the products while it works. The update's
scratch is not counted: it finds the room that activations have left.

Letters as in `parameters`.
"""

from dataclasses import dataclass

from openzaya.model.config import ZayaConfig
from openzaya.recipes.planner.hardware import Device
from openzaya.recipes.planner.layout import Layout, Workload
from openzaya.recipes.planner.parameters import expert_shapes, parameters, size_of

FP32 = 4
USABLE = 0.92
"""Share of a device's memory that a plan may fill; the rest is for the runtime and fragments."""
LOGITS_CHUNK_ELEMENTS = 1 << 29
"""Logits that exist at the same time: that of `train.loss`, which needs torch to be imported."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank by use."""

    weights: float
    """fp32 weights."""
    gradients: float
    """fp32 gradients."""
    optimizer: float
    """One momentum for Muon's parameters, two averages for AdamW's, all fp32."""
    gathered: float
    """Whole layers while they work, and the head."""
    activations: float
    """What the backward pass needs of the layers."""
    logits: float
    """Chunk of logits with its gradient, and the head in fp32 with its gradient."""

    @property
    def total(self) -> float:
        """All of it."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.gathered
            + self.activations
            + self.logits
        )


def activation_bytes(config: ZayaConfig, value_bytes: int) -> float:
    """Return what one layer keeps of one token for its backward pass, without checkpointing.

    Counted in what autograd saves. In fp32, by our C++ on a CPU: rows of the model's width around
    norms, sums and the experts (6 D), the projections (C + W), what is attended and its output
    (2 H P + 2 W), the experts' first product (2 F) and the router (7 R). In a narrow format, by our
    plain forward: such rows (7 D), attention before and after packing (2 H P), values (W), the
    experts' gate, input and product (3 F), the router (6 R), queries with keys at three stages
    (3 C), the fp32 stream (4 D), a row (D) and the window of the convolutions (5 C).
    """
    width, channels, values = config.hidden_size, config.conv_channels, config.kv_channels
    heads = 2 * config.num_attention_heads * config.head_dim
    inner, state = config.moe_intermediate_size, config.router_hidden_size
    if value_bytes == FP32:
        own = 6 * width + channels + 3 * values + heads + 2 * inner + 7 * state
        return float(FP32 * own)
    narrow = 8 * width + 8 * channels + values + heads + 3 * inner + 6 * state
    return float(value_bytes * narrow + 4 * FP32 * width)


def kept_bytes(config: ZayaConfig) -> float:
    """Return what checkpointing keeps of one token and layer: the stream and the router's state."""
    return FP32 * float(config.hidden_size + config.router_hidden_size)


def memory(config: ZayaConfig, work: Workload, layout: Layout, device: Device) -> Memory:
    """Return the memory of one rank."""
    count = parameters(config)
    total, value = count.total / layout.shard, device.value_bytes
    tokens = layout.pass_tokens(work)
    per_layer = activation_bytes(config, value)
    layers = config.num_hidden_layers
    if layout.checkpointing:
        activations = tokens * (layers * kept_bytes(config) + per_layer)
    else:
        activations = tokens * layers * per_layer
    return Memory(
        weights=FP32 * total,
        gradients=FP32 * total,
        optimizer=FP32 * (count.muon + 2 * count.adamw) / layout.shard,
        gathered=gathered_bytes(config, layout, value),
        # The last norm keeps its input in fp32 and its output.
        activations=activations + tokens * config.hidden_size * (FP32 + value),
        logits=logits_bytes(config, tokens, value),
    )


def gathered_bytes(config: ZayaConfig, layout: Layout, value_bytes: int) -> float:
    """Return copies beside the fp32 weights: none when nothing is divided and all is fp32.

    Two layers' weights, one working and one arriving; one layer's gradients as computed and as
    fp32 for the reduction; the head's weights and gradients all the time.
    """
    if layout.shard == 1 and value_bytes == FP32:
        return 0.0
    count = parameters(config)
    experts = size_of(expert_shapes(config)) / layout.expert_parallel
    layer = experts + (count.dense_matrices + count.vectors) / config.num_hidden_layers
    return layer * (3 * value_bytes + FP32) + count.embedding * 2 * value_bytes


def logits_bytes(config: ZayaConfig, pass_tokens: float, value_bytes: int) -> float:
    """Return what the fp32 head holds while a chunk of predictions goes through it."""
    logits = min(LOGITS_CHUNK_ELEMENTS, pass_tokens * config.vocab_size)
    head = FP32 * config.vocab_size * config.hidden_size
    copies = 1 if value_bytes == FP32 else 2
    return 2.0 * FP32 * logits + copies * head
