"""Addresses of passes over documents of any length, sent to the device in one piece."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.cuda.attention import Tiles
from openzaya.engine.cuda.cca import TokenAddresses
from openzaya.engine.cuda.layers import Addresses, Tails
from openzaya.model.addresses import LEAD, Slots

QUERY_ROWS = 64
"""Query rows, tokens times heads of a group, of an attention tile."""
Ints = npt.NDArray[np.int64]


def prefill_addresses(
    lengths: Sequence[int],
    slots: Slots,
    kinds: Iterable[str],
    group: int,
    inner: Sequence[tuple[Tensor, Tensor]],
) -> Addresses:
    """Return the addresses of packed documents; `group` query heads share a key head.

    `inner` receives the tails at the inner block ends, one pair a layer.
    """
    sizes = np.asarray(lengths)
    begins = np.cumsum(sizes) - sizes
    document = np.repeat(np.arange(len(sizes)), sizes)
    inside = np.arange(len(document)) - begins[document]
    size = max(1, QUERY_ROWS // group)
    firsts, counts = _tiles(begins, sizes, size)
    parts = _send(
        (
            np.asarray(slots.ids)[document],
            np.asarray(slots.starts)[document] + inside,
            inside.clip(max=LEAD),
            firsts,
            counts,
            begins + sizes - 1,
            np.asarray(slots.ids),
            slots.inner_ends,
            np.arange(len(slots.inner_ends)),
        ),
        inner[0][0].device,
    )
    slot_T, position_T, back_T, first_N, count_N, last_B, slots_B, inner_M, rows_M = parts
    tiles = Tiles(first_N=first_N, count_N=count_N, size=size, splits=1)
    return Addresses(
        tokens=TokenAddresses(slot_T=slot_T, position_T=position_T, back_T=back_T),
        tiles=dict.fromkeys(kinds, tiles),
        tails=Tails(last_B=last_B, slots_B=slots_B, inner_M=inner_M, rows_M=rows_M, inner=inner),
    )


def _tiles(begins: Ints, sizes: Ints, size: int) -> tuple[Ints, Ints]:
    """Cut every document into runs of at most `size` tokens; return first tokens and lengths."""
    per_document = -(-sizes // size)
    document = np.repeat(np.arange(len(sizes)), per_document)
    order = np.arange(len(document)) - (np.cumsum(per_document) - per_document)[document]
    firsts = begins[document] + order * size
    return firsts, np.minimum(size, (begins + sizes)[document] - firsts)


def _send(parts: Sequence[Ints], device: torch.device) -> tuple[Tensor, ...]:
    """Return int32 copies of vectors, each starting at a multiple of 16 bytes."""
    padded = [np.pad(part.astype(np.int32), (0, -len(part) % 4)) for part in parts]
    whole = torch.from_numpy(np.concatenate(padded)).to(device)
    pieces = torch.split(whole, [len(part) for part in padded])
    return tuple(piece[: len(part)] for piece, part in zip(pieces, parts, strict=True))
