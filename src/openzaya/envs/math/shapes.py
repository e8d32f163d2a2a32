"""A tree as what the gold asks for: a number, a tuple, a set, an interval, a matrix.

Names that the question did not give as variables are labels: `x = 5`, `f(2) = 5` and `AB = 5` all
say 5. A chain of equalities is read whole: each member that is no label has to be right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from openzaya.envs.math.intervals import Piece, pieces
from openzaya.envs.math.labels import is_label, split_label
from openzaya.envs.math.limits import MAX_ITEMS, TooLarge, Unreadable
from openzaya.envs.math.syntax import (
    Apply,
    Chain,
    Listing,
    Matrix,
    Name,
    Node,
    Quantity,
    Seq,
)
from openzaya.envs.math.units import TEMPERATURES

ShapeKind = Literal["scalar", "tuple", "set", "interval", "matrix"]
TUPLE_BRACKETS = ("()", "<>", "[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An answer in parts. Which fields are filled depends on `kind`."""

    kind: ShapeKind
    items: tuple[Node, ...] = ()
    """The number, or the elements; elements may be tuples themselves."""
    also: tuple[Node, ...] = ()
    """Other members of a scalar's chain of equalities: all must be right too."""
    about: tuple[Node, ...] = ()
    """Approximations that a scalar's chain ends with: they must be near."""
    rows: tuple[tuple[Node, ...], ...] = ()
    pieces: tuple[Piece, ...] = ()
    unit: str | None = None


def numbers(shape: Shape) -> list[Node]:
    """Return every number of a shape, those inside nested tuples included."""
    ends = [
        end
        for piece in shape.pieces
        for end in (piece.low, piece.high, *piece.holes)
        if end is not None
    ]
    cells = [cell for row in shape.rows for cell in row]
    found: list[Node] = []
    for node in (*shape.items, *shape.also, *ends, *cells):
        found.extend(node.items if isinstance(node, Seq) else (node,))
    return found


def as_scalar(node: Node, variables: frozenset[str], order: Sequence[str]) -> Shape:  # noqa: ARG001
    """Read a number or a formula. Raises Unreadable."""
    exact: list[Node] = []
    about: list[Node] = []
    if isinstance(node, Chain):
        if not set(node.relations) <= {"=", "~"}:
            raise Unreadable("a relation stands where a value was asked for")
        approximate = False
        for member, relation in zip(node.members, ("=", *node.relations), strict=True):
            approximate = approximate or relation == "~"
            if not is_label(member, variables):
                (about if approximate else exact).append(member)
        if not exact:
            exact, about = about[:1], about[1:]
    else:
        exact = [node]
    if not exact:
        raise Unreadable("there is no value, only names")
    values, units = zip(*(_without_unit(member) for member in exact), strict=True)
    unit = next((unit for unit in reversed(units) if unit is not None), None)
    near = tuple(_without_unit(member)[0] for member in about)
    for value in (*values, *near):
        _check_plain(value)
    return Shape(kind="scalar", items=values[-1:], also=values[:-1], about=near, unit=unit)


def _without_unit(node: Node) -> tuple[Node, str | None]:
    """Return a number and its unit; the degree sign counts as one."""
    match node:
        case Quantity(number, unit):
            inner, degree = _without_unit(number)
            if degree == "degree" and unit in TEMPERATURES:
                return inner, TEMPERATURES[unit]
            return number, unit
        case Apply("degree", (number,)):
            return number, "degree"
        case Apply("neg" | "pos", (Apply("degree", (number,)),)):
            return Apply(node.op, (number,)), "degree"
        case _:
            return node, None


def _check_plain(node: Node) -> None:
    """Raise Unreadable for lists and the like where one value was asked for."""
    if isinstance(node, Listing):
        raise Unreadable("several values where one was asked for")
    if isinstance(node, Seq | Matrix | Chain):
        raise Unreadable("a bracket, matrix or relation where one number was asked for")
    if isinstance(node, Apply) and node.op == "pm":
        raise Unreadable("both signs where one value was asked for")


def as_tuple(node: Node, variables: frozenset[str], order: Sequence[str]) -> Shape:
    """Read an ordered tuple: brackets, a row or column, bare items, or `x = 1, y = 2`."""
    _, node = split_label(node, variables)
    match node:
        case Seq(opener, items, closer) if opener + closer in TUPLE_BRACKETS:
            if len(items) == 1 and isinstance(items[0], Matrix):
                items = _vector(items[0])
        case Matrix():
            items = _vector(node)
        case Listing(items, joiners) if "or" not in joiners:
            items = _named(items, order)
        case _:
            raise Unreadable("an ordered tuple was asked for")
    return Shape(kind="tuple", items=_elements(items, variables))


def _vector(matrix: Matrix) -> tuple[Node, ...]:
    """Return the entries of a row or a column. Raises Unreadable for a larger matrix."""
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    if any(len(row) != 1 for row in matrix.rows):
        raise Unreadable("a matrix where a tuple was asked for")
    return tuple(row[0] for row in matrix.rows)


def _named(items: tuple[Node, ...], order: Sequence[str]) -> tuple[Node, ...]:
    """Put `y = 2, x = 1` into the declared order, else the alphabetical one."""
    labels = [split_label(item, frozenset())[0] for item in items]
    known = [label.name for label in labels if isinstance(label, Name)]
    if len(known) != len(items) or len(set(known)) != len(items):
        return items
    if order and set(order) != set(known):
        raise Unreadable("the names are not those of the question")
    by_name = dict(zip(known, items, strict=True))
    return tuple(split_label(by_name[name], frozenset())[1] for name in order or sorted(known))


def as_set(node: Node, variables: frozenset[str], order: Sequence[str]) -> Shape:  # noqa: ARG001
    """Read an unordered set: braces, bare items, `x = 1 or x = 2`, plus-minus."""
    _, node = split_label(node, variables)
    match node:
        case Seq("{", items, "}") | Listing(items, _):
            pass
        case Seq(opener, (_, _, *_), closer) if opener + closer not in ("()", "<>"):
            raise Unreadable("a set was asked for, not a list in square brackets")
        case _:
            items = (node,)
    signed = [each for item in items for each in _both_signs(split_label(item, variables)[1])]
    return Shape(kind="set", items=_elements(signed, variables))


def _both_signs(node: Node) -> list[Node]:
    """Return the two numbers that a plus-minus stands for."""
    match node:
        case Apply("pm", (a,)):
            return [a, Apply("neg", (a,))]
        case Apply("pm", (a, b)):
            return [Apply("+", (a, b)), Apply("-", (a, b))]
        case Apply("/", (top, bottom)) if len(signs := _both_signs(top)) == 2:
            return [Apply("/", (sign, bottom)) for sign in signs]
        case Seq(opener, items, closer) if any(len(_both_signs(item)) == 2 for item in items):
            raise Unreadable(f"both signs inside {opener} {closer} leave open which go together")
        case _:
            return [node]


def _elements(items: Sequence[Node], variables: frozenset[str]) -> tuple[Node, ...]:
    """Return elements without labels and units. Raises Unreadable and TooLarge."""
    if len(items) > MAX_ITEMS:
        raise TooLarge(f"{len(items)} elements")
    found = []
    for item in items:
        element = _without_unit(split_label(item, variables)[1])[0]
        if isinstance(element, Seq):
            if element.opener + element.closer not in TUPLE_BRACKETS:
                raise Unreadable("an element that is neither a number nor a tuple")
            for part in element.items:
                _check_plain(part)
        else:
            _check_plain(element)
        found.append(element)
    return tuple(found)


def as_interval(node: Node, variables: frozenset[str], order: Sequence[str]) -> Shape:  # noqa: ARG001
    """Read an interval, a union, inequalities, the reals."""
    if isinstance(node, Chain) and set(node.relations) <= {"=", "in"}:
        node = split_label(node, variables)[1]
    return Shape(kind="interval", pieces=tuple(pieces(node)))


def as_matrix(node: Node, variables: frozenset[str], order: Sequence[str]) -> Shape:  # noqa: ARG001
    """Read a matrix: an environment or rows in square brackets."""
    _, node = split_label(node, variables)
    match node:
        case Matrix(rows) | Seq("[", (Matrix(rows),), "]"):
            pass
        case Seq("[" | "(", lines, "]" | ")") if all(isinstance(line, Seq) for line in lines):
            rows = tuple(line.items for line in lines if isinstance(line, Seq))
        case _:
            raise Unreadable("a matrix was asked for")
    if len({len(row) for row in rows}) != 1:
        raise Unreadable("a matrix whose rows differ in length")
    for row in rows:
        for cell in row:
            _check_plain(cell)
    return Shape(kind="matrix", rows=tuple(rows))
