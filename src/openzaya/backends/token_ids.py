"""Token ids as a server wrote them: counted when they come, read when somebody asks for them."""

from collections.abc import Iterator, Sequence
from typing import overload

MAX_TEXTS = 256
"""Texts are joined at this many: one string a token would cost 60 bytes each."""

_CHARS = b"0123456789, "


def is_list(text: str) -> bool:
    """Say whether a text is what stands between the brackets of a JSON list of token ids."""
    if text.isdecimal():
        return text.isascii()
    spaces = text.count(" ")
    return (
        text.isascii()
        and not text.encode().translate(None, _CHARS)
        and text[:1].isdigit()
        and text[-1:].isdigit()
        and ",," not in text
        and (not spaces or spaces == text.count(",") == text.count(", "))
    )


class TokenIds(Sequence[int]):
    """The ids of everything that a call generated.

    A run only counts them; reading 640 of them costs as much as the rest of their call.
    """

    __slots__ = ("_count", "_texts")

    def __init__(self) -> None:
        """Start empty."""
        self._texts: list[str] = []
        self._count = 0

    def add(self, text: str) -> int:
        """Take in a text of which `is_list` holds; return how many ids it has."""
        count = text.count(",") + 1
        texts = self._texts
        texts.append(text)
        self._count += count
        if len(texts) >= MAX_TEXTS:
            texts[:] = [",".join(texts)]
        return count

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Read them."""
        return (int(one) for text in self._texts for one in text.split(","))

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[int, ...]: ...
    def __getitem__(self, at: int | slice) -> int | tuple[int, ...]:
        """Read them and return some."""
        return tuple(self)[at]

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence."""
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]
