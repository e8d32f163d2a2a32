"""Kinds of golds, and how a gold that declares none tells it by its text."""

import re
from enum import StrEnum

from openzaya.envs.math.evaluate import Scope, evaluate
from openzaya.envs.math.labels import is_label, split_label
from openzaya.envs.math.limits import Refused, Unreadable
from openzaya.envs.math.shapes import as_scalar
from openzaya.envs.math.surds import Surd
from openzaya.envs.math.syntax import (
    Apply,
    Chain,
    Listing,
    Matrix,
    Name,
    Node,
    Seq,
    names,
    walk,
)
from openzaya.envs.math.tokens import is_styled, plain_text
from openzaya.envs.math.vocabulary import CONSTANTS, FUNCTIONS

CHOICES = "ABCDEFGHIJ"


class Kind(StrEnum):
    """The type of a gold."""

    INTEGER = "integer"
    RATIONAL = "rational"
    DECIMAL = "decimal"
    """A rational number that is usually compared with a tolerance."""
    TUPLE = "tuple"
    """Ordered."""
    SET = "set"
    """Unordered."""
    INTERVAL = "interval"
    """An interval or a union of intervals and points."""
    MATRIX = "matrix"
    CHOICE = "choice"
    TEXT = "text"
    """One of a few words."""
    EXPRESSION = "expression"
    """A number with roots or constants, or a formula in named variables."""
    OTHER = "other"
    """None of these: only the second tier can grade it."""


def kind_of_words(text: str) -> Kind | None:
    r"""Return the kind of a gold that is a choice's letter or words; None for mathematics.

    What stands in \text{...} as a whole is words, such as \text{June 20}, if it starts with one.
    """
    styled = is_styled(text)
    text = plain_text(text) if styled else text
    bare = text.strip("()")
    if len(bare) == 1:
        return Kind.CHOICE if bare in CHOICES[:5] else None
    words = text.replace("-", " ").split()
    if any(word in FUNCTIONS or word in CONSTANTS for word in words):
        return None
    if styled and re.match("[A-Za-z]{2}", text):
        return Kind.TEXT
    spelled = all(word.isascii() and word.isalpha() for word in words)
    return Kind.TEXT if spelled and any(len(word) > 1 for word in words) else None


def kind_of(node: Node) -> Kind:
    """Return the kind that a gold's tree shows. Raises Unreadable where it could be two."""
    match node:
        case Chain((label, last), ("=",)):
            if not _is_name(label):
                raise Unreadable("it could be an equation or a named value")
            return kind_of(last)
        case Chain((_, Seq("{")), ("in",)):
            return Kind.SET
        case Chain() | Apply("cup" | "setminus" | "builder") | Name("reals"):
            return Kind.INTERVAL
        case Seq():
            return _kind_of_bracket(node)
        case Matrix():
            return Kind.MATRIX
        case Listing(items, _):
            return Kind.TUPLE if _are_named_apart(items) else Kind.SET
        case _:
            return _kind_of_number(node)


def _are_named_apart(items: tuple[Node, ...]) -> bool:
    """Say whether items are values of different things, x = 1, y = 2; x_1 and x_2 are the same."""
    found = [split_label(item, frozenset())[0] for item in items]
    bases = [label.name.partition("_")[0] for label in found if isinstance(label, Name)]
    return len(set(bases)) == len(items)


def _kind_of_bracket(node: Seq) -> Kind:
    match node:
        case Seq("[", (Matrix() | Seq(), *_), "]"):
            return Kind.MATRIX
        case Seq("{", _, "}"):
            return Kind.SET
        case Seq("(", items, ")") if all("infinity" not in names(item) for item in items):
            return Kind.TUPLE
        case Seq("<"):
            return Kind.TUPLE
        case _:
            return Kind.INTERVAL


def _is_name(node: Node) -> bool:
    """Say whether the left side of a gold names its value for certain: x, f(2), AB, not xy, x + y.

    The brackets of a call are gone here, so a call has a usual name or an argument that is none.
    """
    match node:
        case Apply("juxt", (Name(head), argument)):
            return not isinstance(argument, Name) or head in "fghpqr" or head.isupper()
        case Apply("juxt", (Apply("^"), _)):
            return is_label(node, frozenset())
        case Apply("juxt", (head, argument)):
            return _is_name(head) and isinstance(argument, Name)
        case Apply("+" | "-" | "*" | "/" | "^" | "neg"):
            return False
        case _:
            return True


def _kind_of_number(node: Node) -> Kind:
    if any(isinstance(part, Apply) and part.op == "pm" for part in walk(node)):
        return Kind.SET
    try:
        value = evaluate(as_scalar(node, frozenset(), ()).items[0], Scope())
    except Refused:
        return Kind.EXPRESSION
    if not isinstance(value, Surd) or not value.is_rational:
        return Kind.EXPRESSION
    return Kind.INTEGER if value.rational().denominator == 1 else Kind.RATIONAL
