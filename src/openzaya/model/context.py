"""The seam for documents that are spread over ranks (context parallelism).

A layout with a context lays out the tokens of one rank. A part of a document that began elsewhere
has, in the rows before it and in its attention, what the ranks before it know.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from openzaya.model.documents import Documents

Attend = Callable[[Tensor, Tensor, Tensor, Documents, Documents], Tensor]
"""Attention from queries to keys and values, given where the documents of both lie."""


class Context(Protocol):
    """What a layer asks of the other ranks. `train.distributed.context` implements it.

    Letters: T tokens of this rank; M rows, its tokens and those before continued parts.
    """

    def extend(self, x_TE: Tensor) -> Tensor:
        """Return projected rows [M, E] with those of the tokens before every continued part.

        Both convolutions need two of them, the value delay one.
        """
        ...

    def attend(self, q_MHP: Tensor, k_MKP: Tensor, v_MKP: Tensor, attend: Attend) -> Tensor:
        """Return the attention outputs [T, H P] of this rank's tokens."""
        ...
