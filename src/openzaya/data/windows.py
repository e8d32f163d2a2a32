"""Windows: what a training step eats. Trim, pack, gather; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import DataError
from openzaya.core.seeding import numpy_stream
from openzaya.data.ap_trim import ApTrimConfig, Trimmed, fit, split_part
from openzaya.data.documents import StoredDocuments
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
        return sum(self.lengths)

    def gathered(self) -> "Window":
        """Return the window with its tokens in memory; read both arrays from that one."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """What windows are made of: trimmed documents, of which only the numbers are held."""

    documents: Sequence[Document]
    context_tokens: int
    config: ApTrimConfig | None
    numbers: NDArray[np.int64]
    """[pieces]: which document."""
    parts: NDArray[np.int64]
    """[pieces]: which of its pieces; -1 unless it was split."""
    sizes: NDArray[np.int64]
    """[pieces]: tokens."""
    sources: Sequence[str]
    """[documents]: names of data sets."""

    def piece(self, at: int) -> tuple[Document, Trimmed]:
        """Return a document and what stays of it, trimmed once more."""
        document, part = self.documents[int(self.numbers[at])], int(self.parts[at])
        if part >= 0:
            return document, split_part(document, self.context_tokens, part)
        (piece,) = fit(document, self.context_tokens, self.config)
        return document, piece


class _PackedWindow(Window):
    """Gathers its tokens whenever they are asked for: a rank reads the windows that it trains."""

    __slots__ = ("_chosen", "_pieces")
    _chosen: NDArray[np.int64]
    _pieces: _Pieces

    def __init__(self, pieces: _Pieces, chosen: NDArray[np.int64]) -> None:
        # As every window, it is frozen.
        object.__setattr__(self, "_pieces", pieces)
        object.__setattr__(self, "_chosen", chosen)

    def gathered(self) -> Window:
        found = [self._pieces.piece(at) for at in self._chosen.tolist()]
        tokens = np.concatenate([piece.tokens_of(document) for document, piece in found])
        mask = np.concatenate([piece.loss_mask() for _, piece in found])
        return Window(tokens, self.lengths, mask, self.sources)

    @property
    def tokens(self) -> Tokens:
        return self.gathered().tokens

    @property
    def loss_mask(self) -> Mask:
        return self.gathered().loss_mask

    @property
    def lengths(self) -> list[int]:
        lengths: list[int] = self._pieces.sizes[self._chosen].tolist()
        return lengths

    @property
    def sources(self) -> list[str]:
        return [self._pieces.sources[i] for i in self._pieces.numbers[self._chosen].tolist()]

    def __len__(self) -> int:
        return int(self._pieces.sizes[self._chosen].sum())


def build_windows(
    documents: Sequence[Document],
    context_tokens: int,
    config: ApTrimConfig | None = None,
    *,
    window_tokens: int | None = None,
    seed: int = 0,
) -> list[Window]:
    """Trim every document to `context_tokens` and pack them into windows.

    Windows have `window_tokens` (default: the context) and come in an order shuffled by `seed`.
    Documents that cannot fit are left out; `trim_report` counts them. To mix by token weights,
    build windows for each source apart. Nothing is copied: a window gathers its tokens when they
    are asked for, from `documents`, which may be a memory-mapped `Corpus`.
    """
    size = context_tokens if window_tokens is None else window_tokens
    if size < context_tokens:
        raise DataError(
            f"window_tokens is {size}, expected at least context_tokens = {context_tokens}; "
            "make the window larger or the context smaller"
        )
    pieces = _pieces(documents, context_tokens, config)
    bins = pack(pieces.sizes, size)
    order = numpy_stream(seed, "windows", len(bins)).permutation(len(bins))
    return [_PackedWindow(pieces, np.array(bins[number])) for number in order.tolist()]


def _pieces(
    documents: Sequence[Document], context_tokens: int, config: ApTrimConfig | None
) -> _Pieces:
    """Trim the documents that are too long; of the others the length is all that matters."""
    if isinstance(documents, StoredDocuments):
        lengths, sources = documents.lengths(), documents.source_names()
    else:
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        sources = [document.source for document in documents]
    short = np.flatnonzero(lengths <= context_tokens)
    whole = np.stack([short, np.full_like(short, -1), lengths[short]])
    cut = [
        (number, part if piece.rule == "split" else -1, piece.length)
        for number in np.flatnonzero(lengths > context_tokens).tolist()
        for part, piece in enumerate(fit(documents[number], context_tokens, config))
    ]
    rows = np.concatenate([whole, np.array(cut, dtype=np.int64).reshape(-1, 3).T], axis=1)
    numbers, parts, sizes = rows[:, np.argsort(rows[0], kind="stable")]
    return _Pieces(documents, context_tokens, config, numbers, parts, sizes, sources)
