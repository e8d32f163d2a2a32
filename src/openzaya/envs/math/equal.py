"""Whether two values are the same, and how certain that is.

- Exact numbers: by their terms, certain both ways.
- Numbers that are only enclosed: balls that do not touch prove a difference. Equal means the same
  to 40 digits more than the answer has, so no close fraction or decimal can pass.
- Formulas: at `NUM_POINTS` random points that nobody can foresee, drawn from a seed of the gold and
  a secret of the process; rational functions are compared exactly there. Different ones of degree d
  agree at one point with probability at most d / 2**22, at eight or more with less than 10**-30.
"""

import os
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cmp_to_key
from hashlib import blake2b
from itertools import pairwise
from random import Random

from openzaya.envs.math import boxes
from openzaya.envs.math.evaluate import START_DIGITS, Number, Scope, boxed, evaluate
from openzaya.envs.math.intervals import Piece
from openzaya.envs.math.limits import (
    MAX_COMPARED_DIGITS,
    Budget,
    TooLarge,
    Undefined,
)
from openzaya.envs.math.surds import Surd
from openzaya.envs.math.syntax import Node, Num, Seq, walk

NUM_POINTS = 20
"""Points at which formulas are compared; the answer must have a value at all of them."""
MIN_POINTS = 8
"""Fewest points that decide, should chance find fewer than when the gold was loaded."""
MAX_DRAWS = 400
_EXTRA_DIGITS = (0, 90, 340)
"""Added to the digits when balls touch but are too wide to mean anything."""
_SECRET = os.urandom(16)
_RANGES = ((4, False), (1, False), (40, False), (4, True), (100, True))
"""Half-widths of the ranges that points are drawn from, and whether only positive ones are."""


class Comparer:
    """Compares numbers under one gold's rules, with one budget."""

    def __init__(
        self,
        scope: Scope,
        seed: bytes,
        *,
        positive: bool = False,
        tolerance: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0)),
    ) -> None:
        self.tolerance = tolerance
        """Largest absolute difference and largest share of the gold's size."""
        self.is_complex = scope.is_complex
        self.natural_log = scope.natural_log
        self.budget: Budget = scope.budget
        self.rng = Random(blake2b(seed, digest_size=16, key=_SECRET).digest())
        self.positive = positive

    def scope(self, digits: int = START_DIGITS, values: dict[str, Surd] | None = None) -> Scope:
        """Return a scope that shares the budget."""
        return Scope(
            values=values or {},
            digits=digits,
            is_complex=self.is_complex,
            natural_log=self.natural_log,
            budget=self.budget,
        )

    def difference(self, a: Node, b: Node, values: dict[str, Surd] | None = None) -> int:
        """Return -1, 0 or 1 like a comparison; 1 for any different complex numbers.

        Raises Undefined when one has no value or the two cannot be told apart, and TooLarge.
        """
        start = digits_for(a, b)
        for extra in _EXTRA_DIGITS:
            scope = self.scope(min(start, MAX_COMPARED_DIGITS + 40) + extra, values)
            left, right = evaluate(a, scope), evaluate(b, scope)
            if isinstance(left, Surd) and isinstance(right, Surd):
                return _exact(left, right)
            if start > MAX_COMPARED_DIGITS + 40:
                raise TooLarge(f"more than {MAX_COMPARED_DIGITS} digits where not all is exact")
            found = _enclosed(left, right, scope)
            if found is not None:
                return found
        raise Undefined("a difference that cannot be told from zero")

    def equal(self, gold: Node, answer: Node) -> bool:
        """Compare two numbers, within the tolerance if there is one. Raises Undefined, TooLarge."""
        if any(self.tolerance):
            return self.near(gold, answer, *self.tolerance)
        return self.difference(gold, answer) == 0

    def near(self, gold: Node, answer: Node, absolute: Fraction, relative: Fraction) -> bool:
        """Say whether an answer is for certain within a distance, or a share of the gold's size."""
        scope = self.scope()
        right, given = evaluate(gold, scope), evaluate(answer, scope)
        if isinstance(right, Surd) and isinstance(given, Surd) and (given - right).is_rational:
            size = right.rational() if right.is_rational else Fraction(0)
            if right.is_rational or not relative:
                slack = max(absolute, relative * abs(size))
                return abs((given - right).rational()) <= slack
        balls, target = scope.balls, boxes.real(boxed(right, scope))
        gap = balls.sub(boxes.real(boxed(given, scope)), target)
        slack_ball = balls.mul(balls.of(relative), target)
        slack_low = max(balls.near.subtract(slack_ball.mid.copy_abs(), slack_ball.rad), Decimal(0))
        limit = max(balls.of(absolute).mid, slack_low)
        return bool(balls.up.add(gap.mid.copy_abs(), gap.rad) <= limit)

    def same_formula(self, gold: Node, answer: Node, variables: Sequence[str]) -> bool:
        """Compare two formulas at random points where the gold has a value.

        Raises Undefined when the answer has no value at one of them.
        """
        points = self.points(gold, variables, MIN_POINTS)
        return all(self.difference(gold, answer, values) == 0 for values in points)

    def points(
        self, gold: Node, variables: Sequence[str], least: int = NUM_POINTS
    ) -> list[dict[str, Surd]]:
        """Return points where the gold has a value, whole numbers where nothing else has.

        All combinations of signs come equally often. Raises Undefined below `least` points.
        """
        found: list[dict[str, Surd]] = []
        flip = self.rng.getrandbits(len(variables))
        for draw in range(MAX_DRAWS):
            width, above = _RANGES[draw * 2 * len(_RANGES) // MAX_DRAWS % len(_RANGES)]
            signs = 0 if self.positive or above else draw ^ flip
            values = {
                name: self._coordinate(width, bool(signs >> place & 1), draw)
                for place, name in enumerate(variables)
            }
            if values in found or not self._has_value(gold, values):
                continue
            found.append(values)
            if len(found) == NUM_POINTS:
                return found
        if len(found) < least:
            raise Undefined(f"it has a value at only {len(found)} of {MAX_DRAWS} random points")
        return found

    def _coordinate(self, width: int, negative: bool, draw: int) -> Surd:
        """Draw a fraction; in the second half of all draws a whole number."""
        if draw >= MAX_DRAWS // 2:
            return Surd.of(self.rng.randint(1, 60))
        value = Fraction(self.rng.randint(1, width << 20), (1 << 20) - self.rng.randint(0, 7))
        return Surd.of(-value if negative else value)

    def _has_value(self, gold: Node, values: dict[str, Surd]) -> bool:
        try:
            evaluate(gold, self.scope(values=values))
        except (Undefined, TooLarge):
            return False
        return True

    def merged(self, found: Sequence[Piece]) -> list[Piece]:
        """Return pieces split at their holes, sorted, joined where they touch or overlap."""
        parts = [part for piece in found for part in self._split(piece)]
        parts.sort(key=cmp_to_key(self._by_low))
        joined: list[Piece] = []
        for part in parts:
            if joined and self._touch(joined[-1], part):
                joined[-1] = self._union(joined[-1], part)
            else:
                joined.append(part)
        return joined

    def _split(self, piece: Piece) -> list[Piece]:
        """Cut a piece at its holes; drop an empty one. Raises Undefined for reversed ends."""
        if piece.low is not None and piece.high is not None:
            order = self.difference(piece.low, piece.high)
            if order > 0 or (order == 0 and not (piece.low_closed and piece.high_closed)):
                raise Undefined("an interval whose ends are in the wrong order")
        if not piece.holes:
            return [piece]
        holes = sorted(piece.holes, key=cmp_to_key(self._order))
        ends: list[Node | None] = [None, *holes, None]
        return [Piece(low=a, high=b) for a, b in pairwise(ends)]

    def _order(self, a: Node, b: Node) -> int:
        return self.difference(a, b)

    def _by_low(self, a: Piece, b: Piece) -> int:
        if a.low is None or b.low is None:
            return (a.low is not None) - (b.low is not None)
        order = self.difference(a.low, b.low)
        return order if order else b.low_closed - a.low_closed

    def _touch(self, a: Piece, b: Piece) -> bool:
        """Say whether b, which starts no earlier, leaves no gap behind a."""
        if a.high is None or b.low is None:
            return True
        order = self.difference(b.low, a.high)
        return order < 0 or (order == 0 and (a.high_closed or b.low_closed))

    def _union(self, a: Piece, b: Piece) -> Piece:
        if a.high is None or (b.high is not None and self.difference(b.high, a.high) < 0):
            last, closed = a.high, a.high_closed
        elif b.high is not None and self.difference(b.high, a.high) == 0:
            last, closed = a.high, a.high_closed or b.high_closed
        else:
            last, closed = b.high, b.high_closed
        return Piece(low=a.low, low_closed=a.low_closed, high=last, high_closed=closed)

    def same_item(self, gold: Node, answer: Node) -> bool:
        """Compare two elements: numbers, or tuples of numbers."""
        if isinstance(gold, Seq) and isinstance(answer, Seq):
            pairs = list(zip(gold.items, answer.items, strict=False))
            return len(gold.items) == len(answer.items) and all(self.equal(a, b) for a, b in pairs)
        if isinstance(gold, Seq) or isinstance(answer, Seq):
            return False
        return self.equal(gold, answer)


def digits_for(*nodes: Node) -> int:
    """Return how many digits a comparison needs.

    A fraction of n digits can lie within 10**-n of any number, so the comparison goes further.
    """
    longest = max(
        sum(part.digits for part in walk(node) if isinstance(part, Num)) for node in nodes
    )
    return max(START_DIGITS, longest + 40)


def _exact(left: Surd, right: Surd) -> int:
    """Compare exact numbers; the order of roots is found by balls."""
    gap = left - right
    if not gap.terms:
        return 0
    if gap.is_rational:
        return 1 if gap.rational() > 0 else -1
    if not gap.is_real:
        return 1
    for digits in (START_DIGITS, 400):
        ball = boxed(gap, Scope(digits=digits)).re
        if ball.mid.copy_abs() > ball.rad:
            return 1 if ball.mid > 0 else -1
    raise Undefined("an order that cannot be decided")


def _enclosed(left: Number, right: Number, scope: Scope) -> int | None:
    """Compare by balls; None when they touch but are too wide to call the numbers equal."""
    balls, a, b = scope.balls, boxed(left, scope), boxed(right, scope)
    real, imaginary = balls.sub(a.re, b.re), balls.sub(a.im, b.im)
    if imaginary.mid.copy_abs() > imaginary.rad:
        return 1
    if real.mid.copy_abs() > real.rad:
        return 1 if real.mid > 0 else -1
    size = max(b.re.mid.copy_abs(), b.im.mid.copy_abs(), Decimal(10) ** -10)
    narrow = balls.up.multiply(size, Decimal(10) ** (5 - scope.digits))
    return 0 if max(real.rad, imaginary.rad) <= narrow else None
