"""Token ids as a server wrote them: counted when they come, read when somebody asks for them."""

from collections.abc import Iterator, Sequence
from typing import overload

MAX_TEXTS = 256
"""Texts are joined at this many: one string a token would cost 60 bytes each."""

_SHAPES = {",": "A", " ": "a"} | {digit: digit for digit in "0123456789"}
_SHAPE_OF_BYTES = "".join(_SHAPES.get(chr(code), "x") for code in range(256)).encode()


def count_ids(text: str) -> int:
    """Return how many ids stand in the inside of a JSON list of ids; 0 for anything else."""
    if not (text.isascii() and text[:1].isdigit() and text[-1:].isdigit()):
        return 0
    if text.isdigit():
        return 1
    # With a comma as a capital and a space as a small letter, "12, 7,345" has the form of a title,
    # but not "1,,2", "1 2" or "1 ,2". Looking at every id would take ten times as long.
    shape = text.encode().translate(_SHAPE_OF_BYTES)
    return shape.count(b"A") + 1 if shape.istitle() and b"x" not in shape else 0


class TokenIds(Sequence[int]):
    """The ids of everything that a call generated.

    A run only counts them; reading 640 of them costs as much as the rest of their call.
    """

    __slots__ = ("_texts", "size")

    def __init__(self) -> None:
        """Start empty."""
        self._texts: list[str] = []
        self.size = 0
        """How many there are; `len` costs a call."""

    def add(self, text: str, count: int) -> None:
        """Take in a text that holds `count` ids."""
        texts = self._texts
        texts.append(text)
        self.size += count
        if len(texts) >= MAX_TEXTS:
            texts[:] = [",".join(texts)]

    def __len__(self) -> int:
        """Return how many there are."""
        return self.size

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
