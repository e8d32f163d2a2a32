"""The tree of an answer. Nothing in it is worked out yet."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

NumberForm = Literal["integer", "decimal", "scientific", "repeating", "mixed"]


@dataclass(frozen=True, slots=True)
class Num:
    """A number as written."""

    value: Fraction
    form: NumberForm
    digits: int
    """How many digits it was written with."""


@dataclass(frozen=True, slots=True)
class Based:
    """An integer with its base as a subscript, such as 1011_2."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Name:
    """A variable, a constant (pi, e, i, infinity) or an unknown word."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation on arguments; `juxt` is a product that is written without a sign."""

    op: str
    args: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Seq:
    """Items in brackets, the brackets as written: ( ) [ ] { } < >."""

    opener: str
    items: tuple["Node", ...]
    closer: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of a matrix environment."""

    rows: tuple[tuple["Node", ...], ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """Members joined by relations: `0 <= x < 1` has three members."""

    members: tuple["Node", ...]
    relations: tuple[str, ...]
    """Each one of = < <= > >= != ~ in."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Bare items with commas, semicolons, `and`, `or` between them."""

    items: tuple["Node", ...]
    joiners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a unit, in the spelling of `units`."""

    number: "Node"
    unit: str


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is no mathematics."""

    text: str


Node = Num | Based | Name | Apply | Seq | Matrix | Chain | Listing | Quantity | Words

EMPTY_SET = Seq("{", (), "}")


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes right below a node."""
    match node:
        case Apply(_, args):
            return args
        case Seq(_, items, _) | Listing(items, _):
            return items
        case Matrix(rows):
            return tuple(cell for row in rows for cell in row)
        case Chain(members, _):
            return members
        case Quantity(number, _):
            return (number,)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(children(top))


def names(node: Node) -> frozenset[str]:
    """Return every name in a tree."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Name))


def show(node: Node) -> str:
    """Return a tree on one line, each operation in brackets: what a person checks a reading by."""
    match node:
        case Num() | Based() | Name() | Words():
            return _show_leaf(node)
        case Quantity(number, unit):
            return f"{show(number)} [{unit}]"
        case Apply(op, args):
            return f"({op} {' '.join(map(show, args))})"
        case Seq(opener, items, closer):
            return f"{opener}{', '.join(map(show, items))}{closer}"
        case Matrix(rows):
            return f"matrix[{'; '.join(', '.join(map(show, row)) for row in rows)}]"
        case Chain(members, relations):
            rest = zip(relations, members[1:], strict=True)
            return show(members[0]) + "".join(f" {r} {show(m)}" for r, m in rest)
        case Listing(items, _):
            return ", ".join(map(show, items))


def _show_leaf(node: Num | Based | Name | Words) -> str:
    match node:
        case Num(value, form, _):
            return str(value) if form == "integer" else f"{form}:{value}"
        case Based(digits, base):
            return f"{digits}_{base}"
        case Name(name):
            return name
        case Words(text):
            return repr(text)
