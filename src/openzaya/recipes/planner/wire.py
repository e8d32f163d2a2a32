"""Bytes that one rank receives in an optimizer step, and over which link.

Gathering N bytes over g ranks brings (g - 1) / g of them to each; reducing and scattering costs the
same, an all-reduce twice that. Letters as in `parameters`.
"""

from dataclasses import dataclass

from openzaya.model.config import ZayaConfig
from openzaya.recipes.planner.hardware import Device
from openzaya.recipes.planner.layout import Layout, Workload
from openzaya.recipes.planner.memory import FP32
from openzaya.recipes.planner.parameters import parameters

HALO_ROWS = 2
"""Rows of queries with keys that a chunk needs of the one before it: two kernels of two taps."""
CHUNKS = 2
"""Pieces of a document on one rank: one from its head and one from its tail, for equal work."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of traffic."""

    name: str
    group: int
    """Ranks that take part."""
    num_bytes: float
    """Received by one rank in a step."""
    seconds: float
    """At the full rate of the slowest link that the group crosses."""


def share_of_others(group: int) -> float:
    """Return the part of gathered data that comes from other ranks: (g - 1) / g."""
    return (group - 1) / group


def traffic(config: ZayaConfig, work: Workload, layout: Layout, device: Device) -> list[Traffic]:
    """Return every kind of traffic of a step that is not empty."""
    shard, experts, documents = layout.shard, layout.expert_parallel, layout.context_parallel
    replicas = layout.ranks // shard
    table = (
        ("weights (all-gather)", shard, shard, _weights(config, work, layout, device)),
        ("gradients (reduce-scatter)", shard, shard, _gradients(config, work, layout)),
        (
            "gradients (all-reduce)",
            replicas,
            layout.ranks,
            _replicas(config, work, layout),
        ),
        ("Muon (matrices to owners)", shard, shard, _muon(config, layout)),
        ("experts (all-to-all)", experts, experts, _experts(config, work, layout, device)),
        ("keys, values (all-gather)", documents, documents, _keys(config, work, layout, device)),
        ("halo of convolutions", documents, documents, _halo(config, work, layout, device)),
    )
    lines = []
    for name, group, span, num_bytes in table:
        if num_bytes:
            inside = span <= device.per_node
            rate = device.node_bytes_per_s if inside else device.network_bytes_per_s
            lines.append(Traffic(name, group, num_bytes, num_bytes / rate))
    return lines


def _received(config: ZayaConfig, layout: Layout) -> float:
    """Return the parameters that a rank receives when all it works with are gathered.

    With expert parallelism a rank works with its own experts only, which fewer ranks divide.
    """
    count = parameters(config)
    rest = count.total - count.expert_matrices
    group = layout.shard // layout.expert_parallel
    own = count.expert_matrices / layout.expert_parallel
    return rest * share_of_others(layout.shard) + own * share_of_others(group)


def _weights(config: ZayaConfig, work: Workload, layout: Layout, device: Device) -> float:
    """Weights come before every forward and again before every backward pass."""
    return 2.0 * layout.passes(work) * _received(config, layout) * device.value_bytes


def _gradients(config: ZayaConfig, work: Workload, layout: Layout) -> float:
    return layout.passes(work) * _received(config, layout) * FP32


def _replicas(config: ZayaConfig, work: Workload, layout: Layout) -> float:
    """FSDP2 adds up what replicas have after every backward pass, not once a step."""
    replicas = layout.ranks // layout.shard
    part = parameters(config).total / layout.shard
    return layout.passes(work) * 2 * share_of_others(replicas) * part * FP32


def _muon(config: ZayaConfig, layout: Layout) -> float:
    """Every matrix has one owner, who gets its parts and sends parts of the update back.

    Stacks divided by expert keep their matrices whole; with more ranks than experts they too are
    divided by rows.
    """
    count = parameters(config)
    divided = count.dense_matrices * share_of_others(layout.shard)
    if layout.shard > config.num_experts:
        group = layout.shard // layout.expert_parallel
        divided += count.expert_matrices * share_of_others(group)
    return 2 * divided / layout.shard * FP32


def _experts(config: ZayaConfig, work: Workload, layout: Layout, device: Device) -> float:
    """Rows go to their expert and come back, forward and backward; checkpointing repeats two."""
    trips = 6 if layout.checkpointing else 4
    rows = layout.rank_tokens(work) * config.num_hidden_layers
    size = config.hidden_size * device.value_bytes
    return trips * rows * size * share_of_others(layout.expert_parallel)


def _keys(config: ZayaConfig, work: Workload, layout: Layout, device: Device) -> float:
    """Keys and values of the other ranks come as computed; their gradients return as fp32."""
    others = (layout.context_parallel - 1) * layout.rank_tokens(work)
    gathers = 2 if layout.checkpointing else 1
    values = 2 * config.kv_channels * config.num_hidden_layers
    return others * values * (device.value_bytes * gathers + FP32)


def _halo(config: ZayaConfig, work: Workload, layout: Layout, device: Device) -> float:
    """Two rows of queries with keys and one of delayed values before each chunk, and back."""
    if layout.context_parallel == 1:
        return 0.0
    documents = work.tokens_per_step / work.context_tokens
    mine = documents * layout.context_parallel / layout.ranks
    row = HALO_ROWS * config.conv_channels + config.kv_channels / 2
    ways = 3 if layout.checkpointing else 2
    return mine * CHUNKS * row * device.value_bytes * config.num_hidden_layers * ways
