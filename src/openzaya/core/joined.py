"""A text that remembers what it was put together from."""

from collections.abc import Iterable
from typing import Any, Self


class Joined(str):
    """A text and the pieces that it is made of, in order.

    Sixteen prompts of a stage share a question and draw on sixteen tails: whoever encodes them
    encodes every piece once. Everywhere else it is a text like any other.
    """

    __slots__ = ("pieces",)

    pieces: tuple[str, ...]

    @classmethod
    def of(cls, pieces: Iterable[str]) -> Self:
        """Join the pieces."""
        kept = tuple(pieces)
        text = cls("".join(kept))
        text.pieces = kept
        return text

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Return itself: it does not change."""
        return self
