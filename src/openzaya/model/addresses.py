"""Where one forward pass reads and writes the cache: blocks, offsets and masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.model.blocks import BLOCK_TOKENS, blocks_of
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import SLIDING

LEAD = 2
"""Rows before each document: the receptive field of both convolutions is three tokens."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """The cache side of a pass: which slot each document continues, and from where."""

    ids: Sequence[int]
    """Slot of each document."""
    starts: Sequence[int]
    """Tokens already in each slot."""
    tables: Mapping[str, npt.NDArray[np.int32]]
    """[B, max_blocks] block ids of each document by layer type, new tokens included; -1 = none."""
    inner_ends: Ints
    """Packed index of every token that ends a block inside its document, if such ends are kept."""

    @property
    def fresh(self) -> bool:
        """Tell whether every slot is still empty."""
        return not any(self.starts)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedKeys:
    """What the documents of one block of a plan see of the cache, in layers of one type."""

    pages_BKM: Tensor
    """Pages from the first one in the window on; head k of a block is page block * K + k."""
    length: int
    """Positions to read of these M pages."""
    mask: Tensor | None
    """[B, 1, S, length] of positions to attend to; None means all of them."""


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
    ends_E: Tensor | None
    """Padded rows of the two tokens up to each inner block end; None when there are none."""
    blocks: Mapping[str, Tensor]
    """Block of every token, [T], by layer type."""
    offset_T: Tensor
    """Position of every token in its block."""


def as_index(ids: Sequence[int], device: torch.device) -> slice | Tensor:
    """Return a slice for consecutive slots, so that reading them copies nothing."""
    if list(ids) == list(range(ids[0], ids[0] + len(ids))):
        return slice(ids[0], ids[0] + len(ids))
    return torch.tensor(ids, dtype=torch.int64, device=device)


def inner_ends(starts: Sequence[int], lengths: Sequence[int]) -> Ints:
    """Return the packed index of every token that ends a block and is not its document's last."""
    found: list[int] = []
    offset = 0
    for start, length in zip(starts, lengths, strict=True):
        first = (start // BLOCK_TOKENS + 1) * BLOCK_TOKENS
        ends = range(first, start + length, BLOCK_TOKENS)
        found += [offset + end - start - 1 for end in ends]
        offset += length
    return np.asarray(found, dtype=np.int64)


def cached_keys(
    config: ZayaConfig,
    group: Sequence[int],
    lengths: Sequence[int],
    slots: Slots,
    device: torch.device,
) -> dict[str, CachedKeys]:
    """Return what a group of documents, longest first, sees of the cache, by layer type."""
    documents = np.asarray(group)
    starts = np.asarray(slots.starts)[documents]
    stops = starts + np.asarray(lengths)[documents]
    width = lengths[group[0]]
    starts_B1 = torch.from_numpy(starts).to(device).unsqueeze(1)
    query_B1S1 = (starts_B1 + torch.arange(width, device=device))[:, None, :, None]
    heads = config.num_key_value_heads
    views: dict[str, CachedKeys] = {}
    for kind, table in slots.tables.items():
        window = config.sliding_window if kind == SLIDING else None
        first = first_block(starts, window)
        count = int((-(-stops // BLOCK_TOKENS) - first).max())
        columns = first[:, None] + np.arange(count)
        # A column past the table is past every query too: masked, so any block will do.
        ids = table[documents[:, None], columns.clip(max=table.shape[1] - 1)].clip(min=0)
        length = int(stops.max()) if window is None else count * BLOCK_TOKENS
        mask_B1SN: Tensor | None = None
        if window is not None or width > 1 or starts.min() < starts.max():
            begin_B1 = torch.from_numpy(first * BLOCK_TOKENS).to(device).unsqueeze(1)
            key_BN = begin_B1 + torch.arange(length, device=device)
            key_B11N = key_BN[:, None, None, :]
            mask_B1SN = key_B11N <= query_B1S1
            if window is not None:
                mask_B1SN &= key_B11N > query_B1S1 - window
        views[kind] = CachedKeys(
            pages_BKM=torch.from_numpy(ids[:, None] * heads + np.arange(heads)[:, None]).to(device),
            length=length,
            mask=mask_B1SN,
        )
    return views


def first_block(next_positions: Ints, window: int | None) -> Ints:
    """Return the first block that queries from these positions on can see."""
    if window is None:
        return np.zeros_like(next_positions)
    return (next_positions - window + 1).clip(min=0) // BLOCK_TOKENS


def cache_rows(
    slots: Slots, lengths: Sequence[int], heads: Ints, rows: Ints, device: torch.device
) -> CacheRows:
    """Return the addresses of documents whose first padded row is `heads`.

    `rows` is the padded row of every token.
    """
    sizes = np.asarray(lengths)
    starts = np.asarray(slots.starts)
    document = np.repeat(np.arange(len(sizes)), sizes)
    before = np.cumsum(sizes) - sizes
    position = np.arange(len(document)) + (starts - before)[document]
    blocks = {
        kind: torch.from_numpy(table[document, position // BLOCK_TOKENS].astype(np.int64))
        for kind, table in slots.tables.items()
    }
    lead = (heads[:, None] + np.arange(LEAD)).reshape(-1)
    last = ((heads + sizes)[:, None] + np.arange(LEAD)).reshape(-1)
    ends = (rows[slots.inner_ends][:, None] + np.arange(1 - LEAD, 1)).reshape(-1)
    return CacheRows(
        slots=as_index(slots.ids, device),
        fresh=slots.fresh,
        lead_N=torch.from_numpy(lead).to(device),
        last_N=torch.from_numpy(last).to(device),
        ends_E=torch.from_numpy(ends).to(device) if ends.size else None,
        blocks={kind: block_T.to(device) for kind, block_T in blocks.items()},
        offset_T=torch.from_numpy(position % BLOCK_TOKENS).to(device),
    )


def num_new_blocks(starts: Sequence[int], lengths: Sequence[int]) -> int:
    """Return the blocks that documents of these lengths add to sequences that end at `starts`."""
    pairs = zip(starts, lengths, strict=True)
    return sum(blocks_of(start + length) - blocks_of(start) for start, length in pairs)
