"""Which tokens of a batch lie on which rank of a context group, and which they need of others.

T tokens are cut into 2C equal pieces; rank c of C has pieces c and 2C - 1 - c, one from the head
and one from the tail, so that causal attention costs every rank about the same. A document that
crosses a cut is several *parts*; those that do not begin it are *continued*. All ranks compute this
alone, from the lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
PIECES = 2
"""Pieces of a rank."""
HALO = 2
"""Tokens before a continued part that its convolutions see."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive tokens of one document on one rank."""

    document: int
    """Number of the document in the batch."""
    offset: int
    """Tokens of the document before the part; 0 begins it."""
    length: int
    """Tokens of the part."""
    first: int
    """Place of its first token among all tokens of the batch."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """One batch, divided over C ranks."""

    lengths: tuple[int, ...]
    """Tokens of every document; their sum is a multiple of 2C."""
    num_ranks: int
    """C."""

    @property
    def width(self) -> int:
        """Tokens of a piece."""
        return sum(self.lengths) // (PIECES * self.num_ranks)

    def owner(self, tokens_N: Ints) -> Ints:
        """Return the rank that has each token."""
        piece_N = tokens_N // self.width
        return np.minimum(piece_N, PIECES * self.num_ranks - 1 - piece_N)

    def runs(self, rank: int) -> list[tuple[int, int]]:
        """Return first and last + 1 token of a rank's pieces; neighbors count as one."""
        low = (rank * self.width, (rank + 1) * self.width)
        last = PIECES * self.num_ranks - 1 - rank
        high = (last * self.width, (last + 1) * self.width)
        return [low, high] if low[1] < high[0] else [(low[0], high[1])]

    def tokens(self, rank: int) -> Ints:
        """Return the places of a rank's tokens in the batch, ascending."""
        return np.concatenate([np.arange(*run) for run in self.runs(rank)])

    def parts(self, rank: int) -> list[Part]:
        """Return a rank's parts in the order of its tokens."""
        ends = np.cumsum(self.lengths)
        found: list[Part] = []
        for first, stop in self.runs(rank):
            while first < stop:
                document = int(np.searchsorted(ends, first, side="right"))
                length = min(stop, int(ends[document])) - first
                begin = int(ends[document]) - self.lengths[document]
                found.append(Part(document, first - begin, length, first))
                first += length
        return found

    def continued(self, rank: int) -> list[Part]:
        """Return a rank's parts that do not begin their document: at most one per run."""
        return [part for part in self.parts(rank) if part.offset]


@dataclass(frozen=True, slots=True)
class Route:
    """One exchange of token rows inside a context group, as one rank sees it."""

    send_N: Ints
    """Tokens to send, as places among the rank's own tokens, by receiver."""
    sends: list[int]
    """How many of them go to each rank."""
    receives: list[int]
    """How many come from each rank."""
    arriving_G: Ints
    """Tokens that arrive, as places in the batch, in that order."""


def route(pieces: Pieces, rank: int, wanted: Sequence[Ints]) -> Route:
    """Return the exchange that brings every rank r the tokens `wanted[r]`."""
    own_T = pieces.tokens(rank)
    sending = [tokens[pieces.owner(tokens) == rank] for tokens in wanted]
    arriving = [wanted[rank][pieces.owner(wanted[rank]) == r] for r in range(pieces.num_ranks)]
    return Route(
        send_N=np.searchsorted(own_T, np.concatenate(sending)),
        sends=[len(tokens) for tokens in sending],
        receives=[len(tokens) for tokens in arriving],
        arriving_G=np.concatenate(arriving),
    )


def halo_tokens(pieces: Pieces, rank: int) -> Ints:
    """Return the tokens just before a rank's continued parts, never across a document's start."""
    found = [
        np.arange(part.first - min(HALO, part.offset), part.first)
        for part in pieces.continued(rank)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def key_tokens(pieces: Pieces, rank: int) -> Ints:
    """Return all tokens of its documents before a rank's continued parts, each once.

    Later tokens of a document are not fetched: causal attention never sees them.
    """
    found = [np.arange(part.first - part.offset, part.first) for part in pieces.continued(rank)]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))
