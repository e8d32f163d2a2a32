"""Real numbers as balls: a decimal midpoint and a radius that covers every error made on the way.

The true value always lies within the radius of the midpoint, so two numbers whose balls do not
touch are different for certain. Elementary functions are those of `decimal` (correctly rounded exp,
ln, sqrt) and Taylor series for the circular ones. Midpoints are only touched through a context of
their precision: the operators of Decimal, even its minus sign, round to 28 digits.
"""

from decimal import (
    ROUND_HALF_EVEN,
    ROUND_UP,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from openzaya.envs.math.limits import TooLarge, Undefined

GUARD_DIGITS = 15
MAX_MAGNITUDE = 100_000
"""Largest argument, in size, of exp and of the circular functions."""
MAX_DECIMAL_EXPONENT = 1_000_000

ONE = Decimal(1)
TWO = Decimal(2)


class Ball(NamedTuple):
    """All real numbers within `rad` of `mid`."""

    mid: Decimal
    rad: Decimal


ZERO = Ball(Decimal(0), Decimal(0))


@lru_cache(maxsize=8)
def _pi(digits: int) -> Decimal:
    """Return pi to about `digits` digits, by Machin's formula in integers."""
    scale = 10 ** (digits + 10)

    def arccot(number: int) -> int:
        total: int = scale // number
        term = total
        divisor, sign = 3, -1
        while term:
            term //= number * number
            total += sign * (term // divisor)
            divisor, sign = divisor + 2, -sign
        return total

    return Decimal(4 * (4 * arccot(5) - arccot(239))).scaleb(
        -(digits + 10), Context(prec=digits + 10)
    )


def _context(digits: int, rounding: str) -> Context:
    return Context(
        prec=digits,
        rounding=rounding,
        Emax=MAX_DECIMAL_EXPONENT,
        Emin=-MAX_DECIMAL_EXPONENT,
        traps=[DivisionByZero, InvalidOperation, Overflow],
    )


@lru_cache(maxsize=8)
def arithmetic(digits: int) -> "BallArithmetic":
    """Return the arithmetic that keeps about `digits` correct digits."""
    return BallArithmetic(digits)


class BallArithmetic:
    """Operations on balls at one precision. All may raise TooLarge; some raise Undefined."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.near = _context(digits + GUARD_DIGITS, ROUND_HALF_EVEN)
        self.up = _context(12, ROUND_UP)
        self.ulp = Decimal(10) ** -(digits + GUARD_DIGITS - 1)
        self.tiny = Decimal(10) ** -(digits + GUARD_DIGITS + 2)
        self.pi = self.ball(_pi(digits + GUARD_DIGITS))

    def ball(self, mid: Decimal, rad: Decimal = ZERO.rad) -> Ball:
        """Return a ball whose radius also covers the last digit of `mid`."""
        rounding = self.up.multiply(mid.copy_abs(), self.ulp)
        return Ball(mid, self.up.add(rad, rounding))

    def of(self, value: Fraction) -> Ball:
        """Return a rational number; a small integer is exact."""
        top, bottom = Decimal(value.numerator), Decimal(value.denominator)
        if bottom == ONE and len(top.as_tuple().digits) <= self.digits:
            return Ball(top, ZERO.rad)
        return self.ball(self.near.divide(top, bottom))

    def of_int(self, value: int) -> Ball:
        """Return an integer."""
        return self.of(Fraction(value))

    def neg(self, a: Ball) -> Ball:
        """Return -a."""
        return Ball(a.mid.copy_negate(), a.rad)

    def add(self, a: Ball, b: Ball) -> Ball:
        """Return a + b."""
        return self.ball(self.near.add(a.mid, b.mid), self.up.add(a.rad, b.rad))

    def sub(self, a: Ball, b: Ball) -> Ball:
        """Return a - b."""
        return self.add(a, self.neg(b))

    def mul(self, a: Ball, b: Ball) -> Ball:
        """Return a * b."""
        if ZERO in (a, b):
            return ZERO
        up = self.up
        cross = up.add(up.multiply(a.mid.copy_abs(), b.rad), up.multiply(b.mid.copy_abs(), a.rad))
        rad = up.add(cross, up.multiply(a.rad, b.rad))
        return self.ball(self.near.multiply(a.mid, b.mid), rad)

    def inverse(self, a: Ball) -> Ball:
        """Return 1 / a. Raises Undefined when a may be zero."""
        low = self.near.subtract(a.mid.copy_abs(), a.rad)
        if low <= 0:
            raise Undefined("division by zero")
        low = self.near.multiply(low, Decimal("0.999999"))
        rad = self.up.divide(a.rad, self.up.multiply(self._down(a.mid.copy_abs()), self._down(low)))
        return self.ball(self.near.divide(ONE, a.mid), rad)

    def _down(self, value: Decimal) -> Decimal:
        """Return a short number a little below a positive `value`."""
        return self.up.multiply(value, Decimal("0.999999"))

    def sqrt(self, a: Ball) -> Ball:
        """Return the root of a ball that is not negative. Raises Undefined."""
        if a == ZERO:
            return ZERO
        low = self.near.subtract(a.mid, a.rad)
        if self.near.add(a.mid, a.rad) < 0:
            raise Undefined("the square root of a negative number")
        if low <= 0:
            return Ball(
                ZERO.mid,
                self.up.multiply(TWO, self.near.sqrt(self.up.add(a.mid.copy_abs(), a.rad))),
            )
        rad = self.up.divide(a.rad, self._down(self.near.sqrt(low)))
        return self.ball(self.near.sqrt(a.mid), rad)

    def exp(self, a: Ball) -> Ball:
        """Return e to the a. Raises TooLarge."""
        if a.mid.copy_abs() > MAX_MAGNITUDE or a.rad >= ONE:
            raise TooLarge("an exponential of a large number")
        mid = self.near.exp(a.mid)
        return self.ball(mid, self.up.multiply(mid, self.up.multiply(TWO, a.rad)))

    def ln(self, a: Ball) -> Ball:
        """Return the natural logarithm. Raises Undefined unless a is positive for certain."""
        low = self.near.subtract(a.mid, a.rad)
        if low <= 0:
            raise Undefined("the logarithm of a number that is not positive")
        rad = self.up.add(self.up.divide(a.rad, self._down(low)), self.ulp)
        return self.ball(self.near.ln(a.mid), rad)

    def cos(self, a: Ball) -> Ball:
        """Return the cosine. Raises TooLarge."""
        return self.sin(self.add(a, self.mul(self.pi, Ball(Decimal("0.5"), ZERO.rad))))

    def sin(self, a: Ball) -> Ball:
        """Return the sine: the period is taken off, then a Taylor series. Raises TooLarge."""
        near = self.near
        if a.mid.copy_abs() > MAX_MAGNITUDE:
            raise TooLarge("a circular function of a large number")
        turns = near.to_integral_value(near.divide(a.mid, self.pi.mid))
        rest = near.subtract(a.mid, near.multiply(turns, self.pi.mid))
        # pi is off by at most one unit, `turns` times
        slack = self.up.multiply(self.ulp, self.up.add(Decimal(40), turns.copy_abs() * 8))
        value = self._sine_series(rest)
        return self.ball(value.copy_negate() if turns % 2 else value, self.up.add(a.rad, slack))

    def _sine_series(self, x: Decimal) -> Decimal:
        """Sum x - x^3/3! + ... for |x| <= 2."""
        near = self.near
        total = term = x
        square, count = near.multiply(x, x), 1
        while term.copy_abs() > self.tiny:
            count += 2
            term = near.divide(
                near.multiply(term.copy_negate(), square), Decimal(count * (count - 1))
            )
            total = near.add(total, term)
        return total

    def atan(self, a: Ball) -> Ball:
        """Return the arc tangent: three halvings of the angle, then a Taylor series."""
        near = self.near
        x = a.mid
        for _ in range(3):
            root = near.sqrt(near.add(ONE, near.multiply(x, x)))
            x = near.divide(x, near.add(ONE, root))
        total, power, square, count = x, x, near.multiply(x, x), 1
        while power.copy_abs() > self.tiny:
            count += 2
            power = near.multiply(power.copy_negate(), square)
            total = near.add(total, near.divide(power, Decimal(count)))
        slack = self.up.multiply(self.ulp, Decimal(100))
        return self.ball(near.multiply(Decimal(8), total), self.up.add(a.rad, slack))
