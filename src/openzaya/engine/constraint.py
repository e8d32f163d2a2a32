"""What the engine asks of whatever allows and forbids tokens."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
"""Masks [N, ceil(V / 32) * 4]: bit t % 8 of byte t // 8 is set where token t may come."""


class Constraint(Protocol):
    """What the tokens of one request must obey; it is told all but the last, forced ones too."""

    def accept(self, token: int) -> None:
        """Take note of a token, allowed or forced."""
        ...

    @classmethod
    def fill(cls, constraints: Sequence[Any], bits_NW: Bits) -> None:
        """Write the masks of several constraints of this class; each allows one token at least.

        Where a reply may end, its stop tokens are allowed.
        """
        ...
