"""The index work of one forward pass, done once and shared by all layers.

Tokens travel packed, [T, ...]. Attention and the convolutions need each document (or cache slot)
by itself, so they work on *padded rows*: documents of similar length share a block of equal-length
rows, and every document is preceded by two lead rows. The lead rows hold what came before the
document: zeros at its start, the cached state when it continues. Shifts by one and two rows then
never cross a document, and padding to the right is harmless because attention is causal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openzaya.core.errors import RequestError
from openzaya.model.config import SLIDING, ZayaConfig
from openzaya.model.rope import rope_tables

LEAD = 2
"""Rows before each document: the receptive field of both convolutions is three tokens."""
FILL = 0.8
"""A block takes documents down to this share of its longest one: at most a fifth is padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Documents that go through attention together."""

    num_documents: int
    """B: documents of the block."""
    width: int
    """S: tokens of the longest of them."""
    first_row: int
    """Where the block's lead row is among the padded rows."""
    slots: slice | Tensor | None
    """Cache slots of the documents; None without a cache."""
    context: int
    """Cached positions to attend to, this pass included; 0 means attend to the block itself."""
    mask: Tensor | None
    """[B, 1, S, context] of allowed positions; None means causal inside the block."""
    sliding_mask: Tensor | None
    """The same for sliding layers."""

    @property
    def stride(self) -> int:
        """Padded rows per document."""
        return self.width + LEAD


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheRows:
    """Where this pass reads and writes the cache."""

    slots_B: Tensor
    """Slot of every document, in packed order."""
    fresh: bool
    """All slots were empty: the lead rows stay zero and attention needs no cached keys."""
    lead_N: Tensor
    """Padded rows that receive the cached state, two per document."""
    last_N: Tensor
    """Padded rows of the last two tokens (or lead rows) of each document."""
    write_T: Tensor
    """Flat cache position, slot * max_tokens + position, of every token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything about one forward pass that does not depend on the layer."""

    num_tokens: int
    """T: packed tokens."""
    num_rows: int
    """Padded rows, all lead rows included, without the two spare rows at the end."""
    rows_T: Tensor
    """Padded row of every token."""
    outputs_T: Tensor
    """Row of every token among the blocks' attention outputs."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """The cache side of a pass: which slot each document continues, and from where."""

    ids: Sequence[int]
    """Slot of each document."""
    starts: Sequence[int]
    """Tokens already in each slot."""
    max_tokens: int
    """Positions per slot."""


def make_plan(
    config: ZayaConfig,
    lengths: Sequence[int],
    device: torch.device,
    slots: Slots | None = None,
    thetas: dict[str, float] | None = None,
) -> Plan:
    """Lay out one forward pass over documents of the given lengths.

    `thetas` overrides the config's rotary bases by layer type.
    """
    starts = [0] * len(lengths) if slots is None else list(slots.starts)
    fresh = not any(starts)
    num_tokens = sum(lengths)
    begins = np.cumsum([0, *lengths[:-1]])
    rows_T = np.empty(num_tokens, dtype=np.int64)
    outputs_T = np.empty(num_tokens, dtype=np.int64)
    heads = np.empty(len(lengths), dtype=np.int64)
    positions: list[np.ndarray] = []
    blocks: list[Block] = []
    row = output = 0
    for group in group_by_length(lengths):
        width = lengths[group[0]]
        for place, index in enumerate(group):
            span = slice(begins[index], begins[index] + lengths[index])
            heads[index] = row + place * (width + LEAD)
            rows_T[span] = heads[index] + LEAD + np.arange(lengths[index])
            outputs_T[span] = output + place * width + np.arange(lengths[index])
        group_starts = np.asarray([starts[index] for index in group])
        positions.append((group_starts[:, None] + np.arange(width + LEAD)).reshape(-1))
        blocks.append(_make_block(config, group, lengths, starts, slots, fresh, row, device))
        row += len(group) * (width + LEAD)
        output += len(group) * width
    positions_N = torch.from_numpy(np.concatenate(positions)).to(device)
    rope = {
        kind: rope_tables(positions_N, theta, config.rotary_dim)
        for kind, theta in (thetas or config.rope_thetas).items()
    }
    cache = None
    if slots is not None:
        cache = _cache_rows(slots, lengths, heads, fresh, device)
    return Plan(
        num_tokens=num_tokens,
        num_rows=row,
        rows_T=torch.from_numpy(rows_T).to(device),
        outputs_T=torch.from_numpy(outputs_T).to(device),
        blocks=tuple(blocks),
        rope=rope,
        cache=cache,
    )
