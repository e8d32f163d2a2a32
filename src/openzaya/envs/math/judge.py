"""Judge one candidate: read it, then unit, form and value, in this order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from openzaya.envs.math.equal import Comparer
from openzaya.envs.math.evaluate import evaluate
from openzaya.envs.math.extract import Candidate
from openzaya.envs.math.form import check_formula, check_number
from openzaya.envs.math.gold import Gold, shape_of, text_seed
from openzaya.envs.math.kinds import Kind
from openzaya.envs.math.limits import Refused, Unreadable
from openzaya.envs.math.parse import parse
from openzaya.envs.math.shapes import Shape, numbers
from openzaya.envs.math.syntax import (
    EMPTY_SET,
    Apply,
    Based,
    Node,
    Num,
    names,
    show,
)
from openzaya.envs.math.tokens import plain_text
from openzaya.envs.math.vocabulary import EMPTY_WORDS
from openzaya.envs.math.words import judge_words

Rule = Literal["extract", "candidates", "read", "unit", "form", "value", "words", "second tier"]
"""The step that decided."""

NEAR = Fraction(1, 100)
r"""How far what follows \approx may lie from the gold, as a share of it."""
MAX_WORDS = 4
"""A stated answer of more words than this is prose, where no choices are declared."""
_MATHEMATICAL = re.compile(r"[0-9\\=<>^]|[^\x00-\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One candidate, read and judged."""

    candidate: Candidate
    parsed: str
    """The tree as `syntax.show` prints it; empty when it could not be read."""
    rule: Rule
    fault: str
    """What is wrong with it; empty for a right one."""
    is_prose: bool = False
    """True for text that cannot be read as an answer at all."""


def judge_candidate(gold: Gold, candidate: Candidate) -> Reading:
    """Read one candidate and judge it. Never raises for what it says."""
    if gold.kind in (Kind.CHOICE, Kind.TEXT):
        return _judge_words(gold, candidate)
    parsed, rule = "", "read"
    rules = gold.rules
    comparer = Comparer(
        gold.scope(),
        text_seed(gold),
        positive=rules.positive,
        tolerance=rules.tolerances,
    )
    try:
        node = _read(candidate.text, gold)
        parsed = show(node)[:400]
        shape = shape_of(node, gold)
        rule = "unit"
        shape = _checked_unit(shape, gold)
        rule = "form"
        _check_form(shape, gold, comparer)
        rule = "value"
        fault = "" if _equal(shape, gold, comparer) else "its value is not the gold's"
    except Refused as refusal:
        fault = str(refusal)
    return Reading(
        candidate=candidate,
        parsed=parsed,
        rule=rule,  # type: ignore[arg-type]
        fault=fault,
        is_prose=not parsed or not _MATHEMATICAL.search(candidate.text),
    )


def _judge_words(gold: Gold, candidate: Candidate) -> Reading:
    """Judge a choice or a text; other text than the words in question is prose."""
    is_prose = False
    try:
        fault = judge_words(candidate.text, gold) or ""
        if gold.kind is Kind.TEXT and fault:
            is_prose = _is_sentence(plain_text(candidate.text), gold)
    except Refused as refusal:
        fault, is_prose = str(refusal), True
    parsed = "" if is_prose else plain_text(candidate.text)[:400]
    return Reading(candidate=candidate, parsed=parsed, rule="words", fault=fault, is_prose=is_prose)


def _is_sentence(text: str, gold: Gold) -> bool:
    """Say whether a text is none of the declared words, or without those, long."""
    if gold.rules.choices:
        return text.casefold() not in {choice.casefold() for choice in gold.rules.choices}
    return len(text.split()) > MAX_WORDS


def _read(text: str, gold: Gold) -> Node:
    """Return a candidate's tree; words for `no solution` are the empty set."""
    if gold.kind in (Kind.SET, Kind.INTERVAL) and _says_empty(text):
        return EMPTY_SET
    return parse(text, gold.letters, thousands=gold.thousands)


def _says_empty(text: str) -> bool:
    return text.isascii() and plain_text(text).casefold() in EMPTY_WORDS


def _checked_unit(shape: Shape, gold: Gold) -> Shape:
    """Return the shape with its number in the gold's unit. Raises Unreadable for another unit."""
    wanted = gold.rules.unit
    if shape.kind != "scalar":
        return shape
    unit, items = shape.unit, shape.items
    match items[0]:
        case Apply("percent", (number,)) if wanted == "percent":
            unit, items = "percent", (number,)
    if unit is None and wanted and gold.rules.unit_required:
        raise Unreadable(f"the unit {wanted} is missing")
    if unit is not None and wanted and unit != wanted:
        raise Unreadable(f"the unit is {unit}, not {wanted}")
    if unit == "degree" and not wanted and "pi" in names(_number(gold)):
        items = (Apply("degree", items),)
    return replace(shape, items=items)


def _number(gold: Gold) -> Node:
    assert gold.shape is not None
    return gold.shape.items[0]


def _check_form(shape: Shape, gold: Gold, comparer: Comparer) -> None:
    """Raise Unevaluated for an answer that is not worked out."""
    assert gold.shape is not None
    golds = numbers(gold.shape)
    allow = gold.rules.allow
    for node in _answers(shape):
        if gold.kind is Kind.EXPRESSION and gold.variables:
            check_formula(node, _number(gold), allow)
        elif not isinstance(node, Based):
            start = comparer.scope()
            inner = node.args[0] if isinstance(node, Apply) and node.op == "degree" else node
            check_number(inner, evaluate(inner, start), golds, allow)


def _answers(shape: Shape) -> list[Node]:
    """Return the numbers that must be worked out: not the working that a chain shows."""
    return numbers(replace(shape, also=()))


def _equal(shape: Shape, gold: Gold, comparer: Comparer) -> bool:
    """Compare part by part. Raises Undefined and TooLarge."""
    right = gold.shape
    assert right is not None
    match shape.kind:
        case "scalar":
            return _equal_scalar(shape, gold, comparer)
        case "tuple":
            pairs = list(zip(right.items, shape.items, strict=False))
            same_length = len(right.items) == len(shape.items)
            return same_length and all(comparer.same_item(a, b) for a, b in pairs)
        case "set":
            return _equal_sets(right.items, shape.items, comparer)
        case "matrix":
            if [len(row) for row in right.rows] != [len(row) for row in shape.rows]:
                return False
            return all(
                comparer.equal(a, b) for a, b in zip(numbers(right), numbers(shape), strict=True)
            )
        case "interval":
            return _equal_intervals(right, shape, comparer)


def _equal_scalar(shape: Shape, gold: Gold, comparer: Comparer) -> bool:
    """Compare a number or a formula, and every other member of its chain."""
    right = _number(gold)
    given = (*shape.also, *shape.items)
    if gold.kind is Kind.EXPRESSION and gold.variables:
        if shape.about:
            raise Unreadable("an approximate formula")
        return all(comparer.same_formula(right, node, gold.rules.variables) for node in given)
    if isinstance(right, Based) or isinstance(given[-1], Based):
        return len(given) == 1 and _same_digits(right, given[0])
    near = all(comparer.near(right, node, Fraction(0), NEAR) for node in shape.about)
    return near and all(comparer.equal(right, node) for node in given)


def _same_digits(right: Node, given: Node) -> bool:
    """Compare numbers in a base: same base and digits; the base may be left out."""
    match right, given:
        case Based(), Based():
            return right == given
        case Based(digits, _), Num(value, "integer", _):
            return digits == str(value)
        case _:
            return False


def _equal_sets(right: Sequence[Node], given: Sequence[Node], comparer: Comparer) -> bool:
    """Compare without regard to order and repetition."""
    if len(given) > 2 * len(right) + 8:
        return False
    missing = list(right)
    for node in given:
        found = next((gold for gold in missing if comparer.same_item(gold, node)), None)
        if found is not None:
            missing.remove(found)
        elif not any(comparer.same_item(gold, node) for gold in right):
            return False
    return not any(all(not comparer.same_item(gold, node) for node in given) for gold in missing)


def _equal_intervals(right: Shape, given: Shape, comparer: Comparer) -> bool:
    """Compare piece by piece after both are brought to order."""
    ours, theirs = comparer.merged(right.pieces), comparer.merged(given.pieces)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
            return False
        for first, second in ((a.low, b.low), (a.high, b.high)):
            if (first is None) != (second is None):
                return False
            if first is not None and second is not None and not comparer.equal(first, second):
                return False
    return True
