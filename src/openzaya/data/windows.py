"""Windows: what a training step eats. Trim, pack, gather; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openzaya.core.errors import DataError
from openzaya.core.seeding import numpy_stream
from openzaya.data.ap_trim import ApTrimConfig, fit
from openzaya.data.packing import pack
from openzaya.text.document import Document, Mask, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Whole documents side by side; they must not see each other."""

    tokens: Tokens
    """int32[T]."""
    lengths: list[int]
    """Tokens of every document, in order; their sum is T."""
    loss_mask: Mask
    """bool[T]: True where the token itself is a trained target (so shift it with the targets).

    The first token of a document has no prediction and counts for nothing."""
    sources: list[str]
    """Data set of every document."""

    def __len__(self) -> int:
        """Return the tokens in the window."""
        return len(self.tokens)


def build_windows(
    documents: Sequence[Document],
    context_tokens: int,
    config: ApTrimConfig | None = None,
    *,
    window_tokens: int | None = None,
    seed: int = 0,
) -> list[Window]:
    """Trim every document to `context_tokens`, pack them into windows and gather the tokens.

    Windows have `window_tokens` (default: the context) and come in an order shuffled by `seed`.
    Documents that cannot fit are left out; `trim_report` counts them. To mix by token weights,
    build windows for each source apart. `documents` may be a memory-mapped `Corpus`: only spans
    are held until the windows are filled.
    """
    size = context_tokens if window_tokens is None else window_tokens
    if size < context_tokens:
        raise DataError(
            f"window_tokens is {size}, expected at least context_tokens = {context_tokens}; "
            "make the window larger or the context smaller"
        )
    pieces = [
        (number, piece)
        for number, document in enumerate(documents)
        for piece in fit(document, context_tokens, config)
    ]
    bins = pack([piece.length for _, piece in pieces], size)
    order = numpy_stream(seed, "windows", len(bins)).permutation(len(bins))
    windows: list[Window] = []
    for number in order.tolist():
        chosen = [pieces[i] for i in bins[number]]
        total = sum(piece.length for _, piece in chosen)
        tokens = np.empty(total, dtype=np.int32)
        mask = np.empty(total, dtype=np.bool_)
        position = 0
        for document_number, piece in chosen:
            source = documents[document_number].tokens
            for span in piece.spans:
                end = position + span.length
                tokens[position:end] = source[span.start : span.start + span.length]
                mask[position:end] = span.loss
                position = end
        windows.append(
            Window(
                tokens=tokens,
                lengths=[piece.length for _, piece in chosen],
                loss_mask=mask,
                sources=[documents[i].source for i, _ in chosen],
            )
        )
    return windows
