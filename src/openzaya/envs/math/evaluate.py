"""The value of a tree: exact as long as it is a short sum of roots, else enclosed by balls.

Real answers are worked out in the real numbers: the root of a negative number does not exist there.
Only where the gold is complex, `i` is the imaginary unit and such a root a multiple of it.
"""

import decimal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import comb, factorial, floor

from openzaya.envs.math import boxes
from openzaya.envs.math.balls import ZERO, Ball, BallArithmetic, arithmetic
from openzaya.envs.math.boxes import Box
from openzaya.envs.math.limits import MAX_EXPONENT, Budget, TooLarge, Undefined, Unreadable
from openzaya.envs.math.surds import NotExact, Surd, integer_root, square_root
from openzaya.envs.math.syntax import Apply, Based, Name, Node, Num

Number = Surd | Box

START_DIGITS = 60
MAX_FACTORIAL = 1_000
MAX_ROOT = 100
"""Fractional powers of a higher degree are worked out by logarithms."""
_ONE, _HALF, _IMAGINARY = Surd.of(1), Surd.of(Fraction(1, 2)), Surd(((-1, Fraction(1)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Where a tree is evaluated."""

    values: Mapping[str, Surd] = field(default_factory=dict)
    """Values of the variables."""
    digits: int = START_DIGITS
    """Correct digits of what is not exact."""
    is_complex: bool = False
    natural_log: bool = True
    """Whether a logarithm without base is the natural one; else its base is 10."""
    budget: Budget = field(default_factory=Budget)

    def spend_function(self) -> None:
        """Count one elementary function at this precision."""
        self.budget.spend(max(10, self.digits * self.digits // 180))

    @property
    def balls(self) -> BallArithmetic:
        """The arithmetic of this precision."""
        return arithmetic(self.digits)


def evaluate(node: Node, scope: Scope) -> Number:
    """Return the value. Raises Undefined, TooLarge, or Unreadable for what is no number."""
    try:
        return _value(node, scope)
    except NotExact:
        raise TooLarge("a sum of too many roots") from None
    except (decimal.Overflow, decimal.InvalidOperation, decimal.DivisionByZero):
        raise TooLarge("a value beyond all decimal exponents") from None


def boxed(number: Number, scope: Scope) -> Box:
    """Return the box around a number."""
    return boxes.enclose(number, scope.balls) if isinstance(number, Surd) else number


def _value(node: Node, scope: Scope) -> Number:
    scope.budget.spend(1)
    match node:
        case Num(value, _, _):
            return Surd.of(value)
        case Based(digits, base):
            return Surd.of(in_base(digits, base))
        case Name(name):
            return _name(name, scope)
        case Apply(op, args) if op in _OPERATIONS:
            return _OPERATIONS[op](*(_value(arg, scope) for arg in args), scope)
        case _:
            raise Unreadable("a number was expected here")


def in_base(digits: str, base: int) -> int:
    """Return the value of digits. Raises Unreadable for a digit that the base does not have."""
    if any(int(digit) >= base for digit in digits):
        raise Unreadable(f"{digits[:20]!r} is no number in base {base}")
    return int(digits, base)


def _name(name: str, scope: Scope) -> Number:
    if name in scope.values:
        return scope.values[name]
    if name == "pi":
        return Box(scope.balls.pi)
    if name == "e":
        scope.spend_function()
        return Box(scope.balls.exp(scope.balls.of_int(1)))
    if name == "i" and scope.is_complex:
        return _IMAGINARY
    if name == "infinity":
        raise Undefined("infinity is no number")
    raise Unreadable(f"{name[:20]!r} is not a name that the question gives")


def _add(a: Number, b: Number, scope: Scope) -> Number:
    if isinstance(a, Surd) and isinstance(b, Surd):
        scope.budget.spend(1 + (a.bits() + b.bits()) // 256)
        try:
            return a + b
        except NotExact:
            pass
    return boxes.add(boxed(a, scope), boxed(b, scope), scope.balls)


def _neg(a: Number, scope: Scope) -> Number:
    return -a if isinstance(a, Surd) else boxes.negative(a, scope.balls)


def _subtract(a: Number, b: Number, scope: Scope) -> Number:
    return _add(a, _neg(b, scope), scope)


def _multiply(a: Number, b: Number, scope: Scope) -> Number:
    if isinstance(a, Surd) and isinstance(b, Surd):
        pairs = len(a.terms) * len(b.terms)
        scope.budget.spend(1 + pairs * (1 + (a.bits() + b.bits()) // 256))
        try:
            return a * b
        except NotExact:
            pass
    elif a == Surd(()) or b == Surd(()):
        return Surd(())
    return boxes.multiply(boxed(a, scope), boxed(b, scope), scope.balls)


def _divide(a: Number, b: Number, scope: Scope) -> Number:
    return _multiply(a, _invert(b, scope), scope)


def _invert(a: Number, scope: Scope) -> Number:
    if isinstance(a, Surd):
        scope.budget.spend(1 if len(a.terms) < 2 else 2_000)
        try:
            return a.inverse()
        except NotExact:
            pass
    return boxes.inverse(boxed(a, scope), scope.balls)


def _power(a: Number, b: Number, scope: Scope) -> Number:
    if isinstance(b, Surd) and b.is_rational:
        exponent = b.rational()
        if exponent.denominator == 1:
            return _whole_power(a, exponent.numerator, scope)
        return _rational_power(a, exponent, scope)
    if not scope.is_complex or boxed(a, scope).is_real:
        exponent_log = _multiply(b, _ln(a, scope), scope)
        scope.spend_function()
        return boxes.exponential(boxed(exponent_log, scope), scope.balls)
    raise Undefined("a complex number to a power that is not whole")


def _whole_power(a: Number, exponent: int, scope: Scope) -> Number:
    if isinstance(a, Surd):
        scope.budget.spend(1 + abs(exponent).bit_length() * (1 + len(a.terms) ** 2))
        try:
            return a.power(exponent)
        except NotExact:
            pass
        except TooLarge:
            if not scope.values or abs(exponent) > MAX_EXPONENT:
                raise
    if abs(exponent) > MAX_EXPONENT:
        raise TooLarge(f"a power with exponent {str(exponent)[:24]}")
    return boxes.whole_power(boxed(a, scope), exponent, scope.balls)


def _rational_power(a: Number, exponent: Fraction, scope: Scope) -> Number:
    """Return the real root for an odd degree, whatever the sign; for an even one of a >= 0."""
    if exponent.denominator > MAX_ROOT and _sign(a, scope) > 0:
        log = _multiply(Surd.of(exponent), _ln(a, scope), scope)
        scope.spend_function()
        return boxes.exponential(boxed(log, scope), scope.balls)
    if exponent.denominator == 2:
        return _whole_power(_sqrt(a, scope), exponent.numerator, scope)
    return _whole_power(_root(a, Surd.of(exponent.denominator), scope), exponent.numerator, scope)


def _root(a: Number, degree: Number, scope: Scope) -> Number:
    if not isinstance(degree, Surd) or not degree.is_rational:
        raise Undefined("a root whose degree is no whole number")
    size = degree.rational()
    if size.denominator != 1 or not 2 <= size <= MAX_EXPONENT:
        raise Undefined("a root whose degree is no whole number from 2 on")
    if size == 2:
        return _sqrt(a, scope)
    sign = _sign(a, scope)
    if sign < 0:
        if size.numerator % 2 == 0:
            raise Undefined("an even root of a negative number")
        return _neg(_root(_neg(a, scope), degree, scope), scope)
    if isinstance(a, Surd) and a.is_rational:
        scope.budget.spend(50)
        exact = integer_root(a.rational(), size.numerator)
        if exact is not None:
            return Surd.of(exact)
    scope.spend_function()
    log = scope.balls.ln(boxes.real(boxed(a, scope)))
    return Box(scope.balls.exp(scope.balls.mul(log, scope.balls.of(1 / size))))


def _sqrt(a: Number, scope: Scope) -> Number:
    if isinstance(a, Surd) and a.is_rational:
        scope.budget.spend(50)
        if a.rational() < 0 and not scope.is_complex:
            raise Undefined("the square root of a negative number")
        exact = square_root(a.rational(), factor=not scope.values)
        if exact is not None:
            return exact
    value = boxes.real(boxed(a, scope))
    if value.mid < 0 and scope.is_complex:
        return Box(ZERO, scope.balls.sqrt(scope.balls.neg(value)))
    return Box(scope.balls.sqrt(value))


def _sign(a: Number, scope: Scope) -> int:
    """Return -1, 0 or 1. Raises Undefined for a complex number or one too close to zero."""
    if isinstance(a, Surd) and a.is_rational:
        value = a.rational()
        return (value > 0) - (value < 0)
    ball = boxes.real(boxed(a, scope))
    if ball.mid.copy_abs() <= ball.rad:
        raise Undefined("a sign that cannot be decided")
    return 1 if ball.mid > 0 else -1


def _absolute(a: Number, scope: Scope) -> Number:
    if isinstance(a, Surd) and not a.is_real:
        parts = boxes.enclose(a, scope.balls)
        return Box(_norm(parts, scope))
    if isinstance(a, Box) and not a.is_real:
        return Box(_norm(a, scope))
    if a == Surd(()):
        return a
    return _neg(a, scope) if _sign(a, scope) < 0 else a


def _norm(a: Box, scope: Scope) -> Ball:
    balls = scope.balls
    return balls.sqrt(balls.add(balls.mul(a.re, a.re), balls.mul(a.im, a.im)))


def _floor(a: Number, scope: Scope) -> Number:
    if isinstance(a, Surd) and a.is_rational:
        return Surd.of(floor(a.rational()))
    ball = boxes.real(boxed(a, scope))
    near = scope.balls.near
    low, high = floor(near.subtract(ball.mid, ball.rad)), floor(near.add(ball.mid, ball.rad))
    if low != high:
        raise Undefined("a floor that cannot be decided")
    return Surd.of(low)


def _natural(a: Number, least: int, most: int) -> int:
    """Return a whole number between bounds. Raises Undefined or TooLarge."""
    if not isinstance(a, Surd) or not a.is_rational or a.rational().denominator != 1:
        raise Undefined("a factorial or binomial of a number that is not whole")
    if a.rational() < least:
        raise Undefined("a factorial or binomial of a negative number")
    if a.rational() > most:
        raise TooLarge(f"a factorial or binomial of more than {most}")
    return a.rational().numerator


def _factorial(a: Number, scope: Scope) -> Number:
    number = _natural(a, 0, MAX_FACTORIAL)
    scope.budget.spend(1 + number)
    return Surd.of(factorial(number))


def _binomial(a: Number, b: Number, scope: Scope) -> Number:
    top, bottom = _natural(a, 0, MAX_FACTORIAL), _natural(b, 0, MAX_FACTORIAL)
    scope.budget.spend(1 + top)
    return Surd.of(comb(top, bottom))


def _ln(a: Number, scope: Scope) -> Number:
    if a == _ONE:
        return Surd(())
    scope.spend_function()
    return Box(scope.balls.ln(boxes.real(boxed(a, scope))))


def _log(*args: Number | Scope) -> Number:
    """Return the logarithm of (number, scope) or (number, base, scope)."""
    *numbers, scope = args
    assert isinstance(scope, Scope)
    values = [_ln(a, scope) for a in numbers if not isinstance(a, Scope)]
    if len(values) == 1 and scope.natural_log:
        return values[0]
    base = values[1] if len(values) == 2 else _ln(Surd.of(10), scope)
    return _divide(values[0], base, scope)


def _exp(a: Number, scope: Scope) -> Number:
    scope.spend_function()
    return _ONE if a == Surd(()) else boxes.exponential(boxed(a, scope), scope.balls)


def _of_ball(function: Callable[[BallArithmetic, Ball], Ball]) -> Callable[..., Number]:
    """Return the operation that applies a function of real balls."""

    def operation(a: Number, scope: Scope) -> Number:
        scope.spend_function()
        return Box(function(scope.balls, boxes.real(boxed(a, scope))))

    return operation


def _asin(a: Number, scope: Scope) -> Number:
    """Return asin(x) = atan(x / sqrt(1 - x^2)), and a right angle at the ends."""
    quarter = Box(scope.balls.mul(scope.balls.pi, scope.balls.of(Fraction(1, 2))))
    if a in (_ONE, -_ONE):
        return quarter if a == _ONE else boxes.negative(quarter, scope.balls)
    cosine = _sqrt(_subtract(_ONE, _multiply(a, a, scope), scope), scope)
    ratio = boxes.real(boxed(_divide(a, cosine, scope), scope))
    return Box(scope.balls.atan(ratio))


def _acos(a: Number, scope: Scope) -> Number:
    quarter = Box(scope.balls.mul(scope.balls.pi, scope.balls.of(Fraction(1, 2))))
    return _subtract(quarter, _asin(a, scope), scope)


def _hyperbolic(sign: int) -> Callable[..., Number]:
    """Return (e^x + sign * e^-x) / 2."""

    def operation(a: Number, scope: Scope) -> Number:
        up, down = _exp(a, scope), _exp(_neg(a, scope), scope)
        total = _add(up, down, scope) if sign > 0 else _subtract(up, down, scope)
        return _multiply(total, _HALF, scope)

    return operation


def _quotient(top: Callable[..., Number], bottom: Callable[..., Number]) -> Callable[..., Number]:
    return lambda a, scope: _divide(top(a, scope), bottom(a, scope), scope)


def _degree(a: Number, scope: Scope) -> Number:
    return _multiply(_multiply(a, Box(scope.balls.pi), scope), Surd.of(Fraction(1, 180)), scope)


_sin, _cos = _of_ball(BallArithmetic.sin), _of_ball(BallArithmetic.cos)
_sinh, _cosh = _hyperbolic(-1), _hyperbolic(1)


def _one(a: Number, scope: Scope) -> Number:  # noqa: ARG001
    return _ONE


def _same(a: Number, scope: Scope) -> Number:  # noqa: ARG001
    return a


_OPERATIONS: dict[str, Callable[..., Number]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "juxt": _multiply,
    "/": _divide,
    "^": _power,
    "neg": _neg,
    "pos": _same,
    "percent": lambda a, scope: _multiply(a, Surd.of(Fraction(1, 100)), scope),
    "degree": _degree,
    "sqrt": _sqrt,
    "root": _root,
    "abs": _absolute,
    "floor": _floor,
    "ceil": lambda a, scope: _neg(_floor(_neg(a, scope), scope), scope),
    "!": _factorial,
    "binom": _binomial,
    "ln": _ln,
    "log": _log,
    "lg": lambda a, scope: _log(a, Surd.of(10), scope),
    "exp": _exp,
    "sin": _sin,
    "cos": _cos,
    "tan": _quotient(_sin, _cos),
    "cot": _quotient(_cos, _sin),
    "sec": _quotient(_one, _cos),
    "csc": _quotient(_one, _sin),
    "asin": _asin,
    "acos": _acos,
    "atan": _of_ball(BallArithmetic.atan),
    "sinh": _sinh,
    "cosh": _cosh,
    "tanh": _quotient(_sinh, _cosh),
}
