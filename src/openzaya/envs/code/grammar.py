"""The grammar of a template's input: says which values are legal, in words and as a check.

A check looks at sizes before contents, so a huge or odd value costs nothing. Types are exact: True
is not 1, and 1.0 is not 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Given = dict[str, Any]
"""The arguments of one call by name; values are what JSON has: int, str and lists of them."""


class Kind(Protocol):
    """One kind of value."""

    def words(self) -> str:
        """Describe the kind for a reader of the statement."""
        ...

    def accepts(self, value: object) -> bool:
        """Say whether a value from anywhere is of this kind."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer between two bounds, both included."""

    low: int
    high: int

    def words(self) -> str:
        """Describe the kind."""
        return f"an integer from {self.low} to {self.high}"

    def accepts(self, value: object) -> bool:
        """Say whether this is such an integer; booleans are not."""
        return type(value) is int and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Text:
    """A string over an alphabet."""

    least: int
    most: int
    alphabet: str

    def words(self) -> str:
        """Describe the kind."""
        return f"a string of {self.least} to {self.most} characters, each one of {self.alphabet!r}"

    def accepts(self, value: object) -> bool:
        """Say whether this is such a string."""
        if not isinstance(value, str) or not self.least <= len(value) <= self.most:
            return False
        return all(char in self.alphabet for char in value)


@dataclass(frozen=True, slots=True)
class Items:
    """A list of values of one kind."""

    kind: Kind
    least: int
    most: int

    def words(self) -> str:
        """Describe the kind."""
        return f"a list of {self.least} to {self.most} items, each {self.kind.words()}"

    def accepts(self, value: object) -> bool:
        """Say whether this is such a list."""
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            return False
        return all(self.kind.accepts(item) for item in value)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A list whose places have kinds of their own."""

    kinds: tuple[Kind, ...]

    def words(self) -> str:
        """Describe the kind."""
        return "a list of " + ", then ".join(kind.words() for kind in self.kinds)

    def accepts(self, value: object) -> bool:
        """Say whether this is such a list."""
        if not isinstance(value, list) or len(value) != len(self.kinds):
            return False
        return all(kind.accepts(item) for kind, item in zip(self.kinds, value, strict=True))


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of equal length: lists of one kind, or strings."""

    row: Items | Text
    least: int
    most: int

    def words(self) -> str:
        """Describe the kind."""
        return (
            f"a list of {self.least} to {self.most} rows of equal length, each {self.row.words()}"
        )

    def accepts(self, value: object) -> bool:
        """Say whether this is such a grid."""
        if not Items(self.row, self.least, self.most).accepts(value):
            return False
        assert isinstance(value, list)
        return len({len(row) for row in value}) <= 1


def integers(least: int, most: int, low: int, high: int) -> Items:
    """Return the kind of lists of `least` to `most` integers between `low` and `high`."""
    return Items(Whole(low, high), least, most)


def accepts(inputs: Mapping[str, Kind], given: object) -> bool:
    """Say whether a value is an object with exactly these names and legal values."""
    if not isinstance(given, dict) or set(given) != set(inputs):
        return False
    return all(kind.accepts(given[name]) for name, kind in inputs.items())


def describe(inputs: Mapping[str, Kind]) -> str:
    """List the names and kinds, one a line."""
    return "\n".join(f"- {name}: {kind.words()}" for name, kind in inputs.items())
