"""Where documents begin in a packed row of tokens: all that the fused forward needs of lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openzaya.model.config import ZayaConfig
from openzaya.model.context import Context
from openzaya.model.documents import Documents, to_device
from openzaya.model.rope import rope_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """One batch of documents side by side, without padding."""

    documents: Documents
    """With a context each of them is the part that lies on this rank, lead rows included."""
    has_one_T: Tensor
    """True where the document has a token before this one."""
    has_two_T: Tensor
    """True where it has two."""
    rope: Mapping[str, tuple[Tensor, Tensor]]
    """Cos and sin [T, R] by layer type."""
    native: bool
    """Our C++ does what surrounds the matrix products."""
    context: Context | None = None
    """The other ranks that hold parts of these documents; None when all are whole."""


def pack_layout(
    config: ZayaConfig,
    thetas: Mapping[str, float],
    lengths: Sequence[int],
    device: torch.device,
    *,
    native: bool,
    offsets: Sequence[int] | None = None,
    context: Context | None = None,
) -> Packed:
    """Lay out documents of these lengths; copies to the device do not wait for it.

    `offsets` are the positions of their first rows, 0 by default.
    """
    places = np.concatenate([np.arange(length) for length in lengths])
    places_T = positions_T = to_device(torch.from_numpy(places), device)
    if offsets is not None:
        positions = places + np.repeat(offsets, lengths)
        positions_T = to_device(torch.from_numpy(positions), device)
    return Packed(
        documents=Documents.of(lengths, device),
        has_one_T=places_T >= 1,
        has_two_T=places_T >= 2,
        rope={
            kind: rope_tables(positions_T, theta, config.rotary_dim)
            for kind, theta in thetas.items()
        },
        native=native,
        context=context,
    )
