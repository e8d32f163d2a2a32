"""Where documents lie among rows that are packed one after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """Documents side by side among some rows."""

    lengths: tuple[int, ...]
    """Rows of every document."""
    ends_B: Tensor
    """int32 [B + 1]: 0, then the end of every document."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Documents":
        """Lay out documents of these lengths; the copy to the device is not waited for."""
        ends = np.cumsum([0, *lengths]).astype(np.int32)
        return cls(lengths=tuple(lengths), ends_B=to_device(torch.from_numpy(ends), device))

    @property
    def longest(self) -> int:
        """Rows of the longest document."""
        return max(self.lengths)

    @property
    def is_even(self) -> bool:
        """All documents have one length."""
        return min(self.lengths) == self.longest


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return `x` on the device, copied from pinned memory where that spares a wait."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
