"""The seam for documents that are spread over ranks (context parallelism).

A plan with a context lays out the tokens of one rank. A piece of a document that began elsewhere
has, in its lead rows and in its attention, what the ranks before it know.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention inside the documents that begin here: queries, keys, values to outputs."""


class Context(Protocol):
    """What a layer asks of the other ranks. `train.distributed.context` implements it."""

    def fill_leads(self, u_MC: Tensor, v_MW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the padded rows with the lead rows of every continued piece filled in.

        Both convolutions need two rows of queries with keys, the value delay one row of values.
        """
        ...

    def attend(
        self, q_HNP: Tensor, k_KNP: Tensor, v_NKP: Tensor, window: int | None, inside: Attend
    ) -> Tensor:
        """Return the attention outputs [N, A] of all result rows.

        `inside` serves the rows of documents that begin on this rank, which come first.
        """
        ...
