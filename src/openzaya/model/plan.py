"""The index work of one forward pass, done once and shared by all layers.

Tokens travel packed, [T, ...]. Attention and the convolutions need each document (or cache slot)
by itself, so they work on *padded rows*: documents of similar length share a block of equal-length
rows, and every document is preceded by two lead rows. The lead rows hold what came before the
document: zeros at its start, the cached state when it continues. Shifts by one and two rows then
never cross a document, and padding to the right is harmless because attention is causal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openzaya.core.errors import RequestError
from openzaya.model.addresses import LEAD, CachedKeys, CacheRows, Slots, cache_rows, cached_keys
from openzaya.model.config import ZayaConfig
from openzaya.model.rope import rope_tables

FILL = 0.8
"""A block takes documents down to this share of its longest one: at most a fifth is padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Documents that go through attention together."""

    num_documents: int
    """B: documents of the block."""
    width: int
    """S: tokens of the longest of them."""
    cached: Mapping[str, CachedKeys]
    """What they see of the cache, by layer type; empty when attention stays inside the block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything about one forward pass that does not depend on the layer."""

    num_tokens: int
    """T: packed tokens."""
    num_rows: int
    """Padded rows, all lead rows included, without the two spare rows at the end."""
    single: bool
    """Every document is one token that continues a cache slot: no padding, no lead rows."""
    rows_T: Tensor
    """Padded row of every token."""
    results_T: Tensor
    """Result row (padded row minus two) of every token."""
    blocks: tuple[Block, ...]
    """The documents by similar length."""
    rope: dict[str, tuple[Tensor, Tensor]]
    """Cos and sin of every result row (padded row minus two), by layer type."""
    cache: CacheRows | None
    """Cache addresses; None without a cache."""


def check_lengths(lengths: Sequence[int] | None, num_tokens: int) -> list[int]:
    """Return the document lengths as a list.

    Raises RequestError unless every length is at least 1 and they add up to the tokens given.
    """
    known = [num_tokens] if lengths is None else [int(length) for length in lengths]
    if not known or min(known) < 1 or sum(known) != num_tokens:
        raise RequestError(
            f"lengths {known[:8]} add up to {sum(known)} for {num_tokens} tokens; give one length "
            ">= 1 per document, adding up to the number of tokens"
        )
    return known


def group_by_length(lengths: Sequence[int], fill: float = FILL) -> list[list[int]]:
    """Return indices of documents in groups, longest first, each at least `fill` full per row.

    Paper: IV-A.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    for index in order:
        if not groups or lengths[index] < fill * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(index)
    return groups


def make_plan(
    config: ZayaConfig,
    thetas: dict[str, float],
    lengths: Sequence[int],
    device: torch.device,
    slots: Slots | None = None,
) -> Plan:
    """Lay out one forward pass over documents of the given lengths.

    `thetas` is the rotary base of each layer type that occurs.
    """
    is_fresh = slots is None or slots.fresh
    single = not is_fresh and max(lengths) == 1
    lead = 0 if single else LEAD
    starts = [0] * len(lengths) if slots is None else slots.starts
    begins = np.cumsum([0, *lengths[:-1]])
    rows = np.empty(sum(lengths), dtype=np.int64)
    heads = np.empty(len(lengths), dtype=np.int64)
    positions: list[np.ndarray] = []
    blocks: list[Block] = []
    row = 0
    for group in group_by_length(lengths):
        stride = lengths[group[0]] + lead
        for place, index in enumerate(group):
            heads[index] = row + place * stride
            first = heads[index] + lead
            rows[begins[index] : begins[index] + lengths[index]] = np.arange(
                first, first + lengths[index]
            )
        seen = (
            {} if slots is None or is_fresh else cached_keys(config, group, lengths, slots, device)
        )
        blocks.append(Block(num_documents=len(group), width=lengths[group[0]], cached=seen))
        group_starts = np.asarray([starts[index] for index in group])
        positions.append((group_starts[:, None] + np.arange(stride)).reshape(-1))
        row += len(group) * stride
    positions_N = torch.from_numpy(np.concatenate(positions)).to(device)
    return Plan(
        num_tokens=sum(lengths),
        num_rows=row,
        single=single,
        rows_T=torch.from_numpy(rows).to(device),
        results_T=torch.from_numpy(rows - lead).to(device),
        blocks=tuple(blocks),
        rope={
            kind: rope_tables(positions_N, theta, config.rotary_dim)
            for kind, theta in thetas.items()
        },
        cache=None if slots is None else cache_rows(slots, lengths, heads, rows, device),
    )
