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
from openzaya.model.config import ZayaConfig
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
    slots: slice | Tensor | None
    """Cache slots of the documents; None when attention stays inside the block."""
    context: int
    """Cached positions to attend to, this pass included; 0 when attention stays inside."""
    mask: Tensor | None
    """[B, 1, S, context] of allowed cached positions; None means all of them."""
    sliding_mask: Tensor | None
    """The same for sliding layers; None when the model has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheRows:
    """Where this pass reads and writes the cache."""

    slots: slice | Tensor
    """Slot of every document, in packed order."""
    fresh: bool
    """All slots were empty: the lead rows stay zero and attention needs no cached keys."""
    lead_N: Tensor
    """Padded rows that receive the cached state: two per document, N = 2B."""
    last_N: Tensor
    """Padded rows of the last two tokens (or lead rows) of each document, N = 2B."""
    write_T: Tensor
    """Flat cache position, slot * max_tokens + position, of every token."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """The cache side of a pass: which slot each document continues, and from where."""

    ids: Sequence[int]
    """Slot of each document."""
    starts: Sequence[int]
    """Tokens already in each slot."""
    max_tokens: int
    """Positions per slot."""

    @property
    def fresh(self) -> bool:
        """Tell whether every slot is still empty."""
        return not any(self.starts)


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
    single = slots is not None and not slots.fresh and max(lengths) == 1
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
        blocks.append(_make_block(config, group, lengths, slots, device))
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
        cache=None if slots is None else _cache_rows(slots, lengths, heads, device),
    )


def _as_index(ids: Sequence[int], device: torch.device) -> slice | Tensor:
    """Return a slice for consecutive slots, so that reading them copies nothing."""
    if list(ids) == list(range(ids[0], ids[0] + len(ids))):
        return slice(ids[0], ids[0] + len(ids))
    return torch.tensor(ids, dtype=torch.int64, device=device)


def _make_block(
    config: ZayaConfig,
    group: Sequence[int],
    lengths: Sequence[int],
    slots: Slots | None,
    device: torch.device,
) -> Block:
    width = lengths[group[0]]
    if slots is None or slots.fresh:
        return Block(
            num_documents=len(group),
            width=width,
            slots=None,
            context=0,
            mask=None,
            sliding_mask=None,
        )
    starts = [slots.starts[index] for index in group]
    context = max(start + lengths[index] for start, index in zip(starts, group, strict=True))
    starts_B1 = torch.tensor(starts, dtype=torch.int64, device=device).unsqueeze(1)
    query_BS = starts_B1 + torch.arange(width, device=device)
    query_B1S1 = query_BS[:, None, :, None]
    key_N = torch.arange(context, device=device)
    mask_B1SN = key_N <= query_B1S1
    sliding = None
    if config.sliding_window is not None:
        sliding = mask_B1SN & (key_N > query_B1S1 - config.sliding_window)
    everything = width == 1 and min(starts) == max(starts)
    return Block(
        num_documents=len(group),
        width=width,
        slots=_as_index([slots.ids[index] for index in group], device),
        context=context,
        mask=None if everything else mask_B1SN,
        sliding_mask=sliding,
    )


def _cache_rows(
    slots: Slots, lengths: Sequence[int], heads: np.ndarray, device: torch.device
) -> CacheRows:
    sizes = np.asarray(lengths)
    flat = np.concatenate(
        [
            slot * slots.max_tokens + np.arange(start, start + length)
            for slot, start, length in zip(slots.ids, slots.starts, lengths, strict=True)
        ]
    )
    lead = (heads[:, None] + np.arange(LEAD)).reshape(-1)
    last = ((heads + sizes)[:, None] + np.arange(LEAD)).reshape(-1)
    return CacheRows(
        slots=_as_index(slots.ids, device),
        fresh=slots.fresh,
        lead_N=torch.from_numpy(lead).to(device),
        last_N=torch.from_numpy(last).to(device),
        write_T=torch.from_numpy(flat).to(device),
    )
