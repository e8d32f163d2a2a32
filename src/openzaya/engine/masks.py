"""Which tokens single requests may take next: bit masks, computed beside the model's pass.

A mask depends on the tokens of its own request alone. As soon as a token is known the next mask is
begun in a thread, so that it is there when the pass has its logits.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.constraint import Bits, Constraint
from openzaya.engine.request import Request

Allowed = npt.NDArray[np.bool_]
EVERYTHING = 0xFF


class Masks:
    """The running requests whose next token is constrained, by ledger row."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._by_row: dict[int, Constraint] = {}
        self._coming: dict[int, tuple[Future[Allowed], int]] = {}
        self._worker: ThreadPoolExecutor | None = None

    def __bool__(self) -> bool:
        """Tell whether any running request is constrained."""
        return bool(self._by_row)

    def open(self, request: Request) -> None:
        """Start the row of an admitted request."""
        if request.params.constraint is not None:
            self._by_row[request.row] = request.params.constraint()
            self._begin([request.row], None)

    def close(self, row: int) -> None:
        """Forget the row of a request that ended."""
        self._by_row.pop(row, None)
        self._coming.pop(row, None)

    def apply(
        self, rows: npt.NDArray[np.intp], forced: npt.NDArray[np.int64] | None, logits_BV: Tensor
    ) -> Tensor:
        """Return the logits with -infinity for what a row may not take.

        Rows whose token is forced keep theirs: the token comes whatever the mask says.
        """
        if not self._by_row:
            return logits_BV
        at = [i for i, row in enumerate(rows.tolist()) if row in self._by_row]
        if forced is not None:
            at = [i for i in at if forced[i] < 0]
        if not at:
            return logits_BV
        allowed_NV = torch.from_numpy(np.stack([self._mask(int(rows[i])) for i in at]))
        at_N = torch.tensor(at, device=logits_BV.device)
        masked_NV = torch.where(allowed_NV.to(logits_BV.device), logits_BV[at_N], -torch.inf)
        return logits_BV.index_copy(0, at_N, masked_NV)

    def count(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Take note of the token that each row got, and begin the masks of those behind them."""
        pairs = [(row, t) for row, t in zip(rows, tokens, strict=True) if row in self._by_row]
        if pairs:
            self._begin([row for row, _ in pairs], [token for _, token in pairs])

    def _mask(self, row: int) -> Allowed:
        """Return the mask [V] of a row; wait for it where it is not there yet."""
        future, index = self._coming[row]
        mask: Allowed = future.result()[index]
        return mask

    def _begin(self, rows: Sequence[int], tokens: Sequence[int] | None) -> None:
        """Compute the masks of these rows in the thread, behind `tokens` where there are some."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "openzaya-masks")
        constraints = [self._by_row[row] for row in rows]
        future = self._worker.submit(_next_masks, constraints, tokens, self._vocab_size)
        for index, row in enumerate(rows):
            self._coming[row] = (future, index)


def _next_masks(
    constraints: Sequence[Constraint], tokens: Sequence[int] | None, vocab_size: int
) -> Allowed:
    """Tell every constraint its token, if there is one, and return what may come behind it."""
    for constraint, token in zip(constraints, tokens or (), strict=tokens is not None):
        constraint.accept(token)
    bits_NW = np.full((len(constraints), -(-vocab_size // 32) * 4), EVERYTHING, dtype=np.uint8)
    start = 0
    for _, same in groupby(constraints, type):
        several = list(same)
        several[0].fill(several, bits_NW[start : start + len(several)])
        start += len(several)
    return allowed_by(bits_NW, vocab_size)


def allowed_by(bits_NW: Bits, vocab_size: int) -> Allowed:
    """Return masks of bits as booleans [N, V]."""
    allowed_NV = np.unpackbits(bits_NW, axis=1, count=vocab_size, bitorder="little")
    return allowed_NV.view(np.bool_)
