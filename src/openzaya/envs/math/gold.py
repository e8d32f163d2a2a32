"""Typed golds: what a right answer is, declared and checked when the data set is loaded.

A gold that does not fit its kind raises DataError at once; no verdict ever depends on a gold that
cannot be read. The kind may be left out where the text alone decides it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from openzaya.core.errors import ConfigError, DataError
from openzaya.envs.math.equal import Comparer
from openzaya.envs.math.evaluate import Scope, evaluate
from openzaya.envs.math.form import CLASSES
from openzaya.envs.math.kinds import CHOICES, Kind, kind_of, kind_of_words
from openzaya.envs.math.limits import Refused, Unreadable
from openzaya.envs.math.parse import parse
from openzaya.envs.math.shapes import (
    Shape,
    as_interval,
    as_matrix,
    as_scalar,
    as_set,
    as_tuple,
    numbers,
)
from openzaya.envs.math.surds import Surd
from openzaya.envs.math.syntax import (
    Chain,
    Node,
    names,
)
from openzaya.envs.math.tokens import Token, plain_text, tokenize
from openzaya.envs.math.units import unit_name
from openzaya.envs.math.vocabulary import CONSTANTS, FUNCTIONS, GREEK, RELATIONS, UNEVALUATED

LONGEST_PRODUCT = 3
"""Letters that may be variables side by side, as in xyz."""
ALLOWED = tuple(sorted(set(CLASSES.values()) | set(UNEVALUATED.values())))
"""Classes of operations that may be left undone in an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How one gold is graded, where it differs from the policies of the guide."""

    tolerance: float = 0.0
    """Largest absolute difference of a number."""
    relative_tolerance: float = 0.0
    """Largest difference of a number as a share of the gold's size."""
    variables: tuple[str, ...] = ()
    """Names that the answer may use, in their order for tuples; found in the gold when empty."""
    unit: str = ""
    """Unit that the answer may carry; the gold's own when it has one."""
    unit_required: bool = False
    thousands: bool = True
    """Read 1,234 as one number where the gold is a single number."""
    allow: frozenset[str] = frozenset()
    """Operations that need not be worked out, from `ALLOWED`, beside those of the gold itself."""
    choices: tuple[str, ...] = ()
    """Texts of the choices A, B, ...; or the words that a text gold is one of."""
    synonyms: tuple[str, ...] = ()
    """Other spellings of a text gold."""
    positive: bool = False
    """Variables stand for positive numbers."""
    common_log: bool = False
    r"""\log without a base has base 10 instead of e."""
    marker_required: bool = False
    """Refuse a bare answer without a box or `answer is`."""
    second_tier: bool = False
    """Accept golds of kind `other`, to be graded by math-verify."""

    def __post_init__(self) -> None:
        """Refuse tolerances that are no sizes and operations that do not exist."""
        for name in ("tolerance", "relative_tolerance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number >= 0")
        unknown = sorted(self.allow - set(ALLOWED))
        if unknown:
            raise ConfigError(f"allow names {unknown[0]!r}; choose among {', '.join(ALLOWED)}")

    @property
    def tolerances(self) -> tuple[Fraction, Fraction]:
        """The absolute and the relative tolerance as the decimals that were written."""
        return Fraction(repr(self.tolerance)), Fraction(repr(self.relative_tolerance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A right answer."""

    text: str
    kind: Kind
    rules: Rules
    shape: Shape | None = field(default=None, repr=False)
    """The parts; None for choices, texts and other golds."""
    is_complex: bool = False

    @property
    def variables(self) -> frozenset[str]:
        """Names that stand for numbers."""
        return frozenset(self.rules.variables)

    @property
    def letters(self) -> frozenset[str]:
        """Names that the parser reads as mathematics."""
        return self.variables | ({"i"} if self.is_complex else set())

    @property
    def thousands(self) -> bool:
        """Whether a comma may group digits: where it separates items, it cannot."""
        scalar = self.kind in (Kind.INTEGER, Kind.RATIONAL, Kind.DECIMAL)
        return scalar and self.rules.thousands

    def scope(self) -> Scope:
        """Return a fresh scope without values."""
        return Scope(is_complex=self.is_complex, natural_log=not self.rules.common_log)


def parse_gold(text: str, kind: Kind | str | None = None, rules: Rules | None = None) -> Gold:
    """Return the gold that `text` denotes.

    Raises DataError when it does not fit its kind, has no value, or its kind cannot be told.
    """
    rules = Rules() if rules is None else rules
    text = text.strip()
    wanted = _kind_named(kind)
    if not text:
        raise DataError("the gold is empty; every problem needs a right answer")
    try:
        if wanted is None:
            wanted = kind_of_words(text)
        if wanted in (Kind.CHOICE, Kind.TEXT):
            return _worded(plain_text(text), wanted, rules)
        return _mathematical(text, wanted, rules)
    except Refused as error:
        if rules.second_tier and wanted in (None, Kind.OTHER):
            return Gold(text=text, kind=Kind.OTHER, rules=rules)
        raise DataError(
            f"the gold {text[:60]!r} is no {wanted or 'answer of a known kind'}: {error}; "
            "correct it, declare another kind, or leave the problem out"
        ) from error


def _kind_named(kind: Kind | str | None) -> Kind | None:
    if kind is None or isinstance(kind, Kind):
        return kind
    try:
        return Kind(kind)
    except ValueError:
        known = ", ".join(Kind)
        raise DataError(f"the gold's kind is {kind!r}; choose one of: {known}") from None


def _worded(text: str, kind: Kind, rules: Rules) -> Gold:
    """Return a choice or a text. Raises DataError for a choice that is none."""
    if kind is Kind.CHOICE:
        letter = text.strip("() .")
        offered = CHOICES[: len(rules.choices)] if rules.choices else CHOICES
        if len(letter) != 1 or letter not in offered:
            raise DataError(f"the gold {text[:20]!r} is no choice; expected one of {offered}")
        return Gold(text=letter, kind=kind, rules=rules)
    if rules.choices and text.lower() not in (choice.lower() for choice in rules.choices):
        raise DataError(f"the gold {text[:40]!r} is not among the words {rules.choices}")
    if text.lower() in ("nan", "undefined"):
        raise DataError(f"the gold is {text!r}, which no answer equals; leave the problem out")
    return Gold(text=text, kind=kind, rules=rules)


def _letters(text: str) -> tuple[str, ...]:
    """Return the variables that a gold's text uses, in alphabetical order.

    Letters side by side are variables; units and longer words are not.
    """
    known = set(FUNCTIONS) | set(CONSTANTS) | set(UNEVALUATED) | set(RELATIONS)
    found: set[str] = set()
    tokens = tokenize(text)
    for index, token in enumerate(tokens):
        if token.kind == "command" and token.text[1:] in GREEK:
            found.add(token.text[1:])
            continue
        before = tokens[max(0, index - 2) : index]
        if token.kind == "word" and token.text not in known and not _is_noun(token, before):
            found.update(token.text)
    return tuple(sorted(found - {"e", "i"}))


def _is_noun(token: Token, before: Sequence[Token]) -> bool:
    r"""Say whether a word is one: long, or a unit as in 5 cm, 5\text{ m} and 5^\circ C."""
    if len(token.text) > LONGEST_PRODUCT:
        return True
    last = before[-1] if before else None
    if unit_name(token.text) is None or last is None:
        return False
    if any(part.text in (r"\circ", r"\degree") for part in before):
        return True
    if token.is_styled:
        return last.kind in ("number", "repeating") or last.text in ("}", ")")
    return token.spaced and len(token.text) > 1


def _mathematical(text: str, kind: Kind | None, rules: Rules) -> Gold:
    """Return a gold that is parsed. Raises Refused."""
    declared = rules.variables or (_letters(text) if kind in (None, Kind.EXPRESSION) else ())
    letters = frozenset(declared) | {"i"}
    node = parse(text, letters, thousands=rules.thousands and kind not in _COMMA_KINDS)
    is_complex = "i" in names(node) - set(declared)
    kind = kind or kind_of(node)
    if kind is Kind.OTHER:
        raise Unreadable("its kind is none of the typed ones")
    if not rules.variables:  # a letter anywhere else is a label
        declared = _valued(node, declared) if kind is Kind.EXPRESSION else ()
    shape = _SHAPES[kind](node, frozenset(declared), ())
    if kind is Kind.EXPRESSION:
        declared = tuple(v for v in declared if v in rules.variables or _uses(shape, v))
    unit = _unit_named(rules.unit) if rules.unit else shape.unit
    if rules.unit and unit is None:
        raise Unreadable(f"the unit {rules.unit!r} is not known")
    rules = replace(rules, variables=declared, unit=unit or "")
    gold = Gold(text=text, kind=kind, rules=rules, shape=shape, is_complex=is_complex)
    _check_values(gold)
    return gold


def _valued(node: Node, letters: Sequence[str]) -> tuple[str, ...]:
    """Return the letters that a gold's value has; y = 2x and f(x) = 2x only have x."""
    value = node.members[-1] if isinstance(node, Chain) and set(node.relations) == {"="} else node
    return tuple(letter for letter in letters if letter in names(value))


def _unit_named(text: str) -> str | None:
    return "percent" if text in ("%", r"\%") else unit_name(text)


def _uses(shape: Shape, variable: str) -> bool:
    return any(variable in names(node) for node in numbers(shape))


def text_seed(gold: Gold) -> bytes:
    """Return what the points of a gold are drawn from, beside the secret; any text is allowed."""
    return gold.text.encode("utf-8", "surrogatepass")


def _check_values(gold: Gold) -> None:
    """Raise Refused unless every number has a value of the right type."""
    assert gold.shape is not None
    if gold.kind is Kind.EXPRESSION and gold.variables:
        comparer = Comparer(gold.scope(), text_seed(gold), positive=gold.rules.positive)
        comparer.points(gold.shape.items[0], gold.rules.variables)
        return
    for node in numbers(gold.shape):
        value = evaluate(node, gold.scope())
        if gold.kind not in (Kind.INTEGER, Kind.RATIONAL, Kind.DECIMAL):
            continue
        if not isinstance(value, Surd) or not value.is_rational:
            raise Unreadable("its value is not rational")
        if gold.kind is Kind.INTEGER and value.rational().denominator != 1:
            raise Unreadable("its value is not whole")


_COMMA_KINDS = (Kind.TUPLE, Kind.SET, Kind.INTERVAL, Kind.MATRIX, Kind.EXPRESSION)
_SHAPES = {
    Kind.INTEGER: as_scalar,
    Kind.RATIONAL: as_scalar,
    Kind.DECIMAL: as_scalar,
    Kind.EXPRESSION: as_scalar,
    Kind.TUPLE: as_tuple,
    Kind.SET: as_set,
    Kind.INTERVAL: as_interval,
    Kind.MATRIX: as_matrix,
}


def shape_of(node: Node, gold: Gold) -> Shape:
    """Return an answer's tree in the shape of the gold's kind. Raises Refused."""
    return _SHAPES[gold.kind](node, gold.variables, gold.rules.variables)
