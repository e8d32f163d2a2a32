"""From numpy windows to tensors: the one place where training data enter torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openzaya.core.errors import DataError
from openzaya.data.windows import Window
from openzaya.model.documents import to_device


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Packed documents with their next-token targets."""

    ids_T: Tensor
    """int64 token ids."""
    lengths: list[int]
    """Tokens of every document; they sum to T."""
    targets_T: Tensor
    """int64 next token of the same document; anything where the weight is 0."""
    weights_T: Tensor
    """fp32 weight of every prediction. 0 for a document's last token and for untrained targets."""
    kept_M: Tensor
    """int64 positions of the weights that are not 0."""
    total_weight: float
    """Sum of the weights."""
    sources: tuple[str, ...]
    """Source of every document."""

    @classmethod
    def from_windows(cls, windows: Sequence[Window], device: torch.device | str) -> "Batch":
        """Join windows into one batch on `device`. Raises DataError when there are none."""
        if not windows:
            raise DataError("a batch needs at least one window; raise tokens_per_step")
        gathered = [window.gathered() for window in windows]
        tokens = np.concatenate([window.tokens for window in gathered]).astype(np.int64)
        trained = np.concatenate([window.loss_mask for window in gathered])
        lengths = [length for window in gathered for length in window.lengths]
        weights = np.zeros(len(tokens), dtype=np.float32)
        weights[:-1] = trained[1:]
        # A document's last token must not predict the first one of its neighbor.
        weights[np.cumsum(lengths) - 1] = 0.0
        place = torch.device(device)
        return cls(
            ids_T=to_device(torch.from_numpy(tokens), place),
            lengths=lengths,
            targets_T=to_device(torch.from_numpy(np.roll(tokens, -1)), place),
            weights_T=to_device(torch.from_numpy(weights), place),
            kept_M=to_device(torch.from_numpy(weights.nonzero()[0]), place),
            total_weight=float(weights.sum()),
            sources=tuple(source for window in gathered for source in window.sources),
        )


def split_windows(windows: Sequence[Window], max_tokens: int) -> list[list[Window]]:
    """Cut a step's windows, in order, into microbatches of at most `max_tokens` tokens each.

    A window that is longer stands alone.
    """
    parts: list[list[Window]] = []
    filled = 0
    for window in windows:
        if not parts or filled + len(window) > max_tokens:
            parts.append([])
            filled = 0
        parts[-1].append(window)
        filled += len(window)
    return parts
