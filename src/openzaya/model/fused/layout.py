"""Where documents begin in a packed row of tokens: all that the fused forward needs of lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from openzaya.model.config import ZayaConfig
from openzaya.model.context import Context
from openzaya.model.rope import rope_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """One batch of documents side by side, without padding."""

    lengths: tuple[int, ...]
    """Tokens of every document."""
    ends_B: Tensor
    """int32 [B + 1]: 0, then the end of every document."""
    longest: int
    """Tokens of the longest document."""
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

    @property
    def is_even(self) -> bool:
        """All documents have one length."""
        return min(self.lengths) == self.longest

    def up_to(self, num_rows: int) -> "Packed":
        """Return where the documents lie that fill the first `num_rows` rows."""
        ends = list(accumulate(self.lengths))
        if num_rows == ends[-1]:
            return self
        count = ends.index(num_rows) + 1
        lengths = self.lengths[:count]
        ends_B = self.ends_B[: count + 1]
        return replace(self, lengths=lengths, ends_B=ends_B, longest=max(lengths))


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
    ends = np.cumsum([0, *lengths])
    places = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    places_T = to_device(torch.from_numpy(places), device)
    positions_T = places_T
    if offsets is not None:
        positions_T = to_device(torch.from_numpy(places + np.repeat(offsets, lengths)), device)
    return Packed(
        lengths=tuple(lengths),
        ends_B=to_device(torch.from_numpy(ends.astype(np.int32)), device),
        longest=max(lengths),
        has_one_T=places_T >= 1,
        has_two_T=places_T >= 2,
        rope={
            kind: rope_tables(positions_T, theta, config.rotary_dim)
            for kind, theta in thetas.items()
        },
        native=native,
        context=context,
    )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return `x` on the device, copied from pinned memory where that spares a wait."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
