"""Exact numbers: sums of rational multiples of square roots, i = sqrt(-1) among them.

Square roots of different squarefree integers are linearly independent over the rationals, so a
number is zero exactly when it has no terms, and two numbers are equal exactly when their terms are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt

from openzaya.envs.math.limits import MAX_BITS, MAX_EXPONENT, TooLarge, Undefined

MAX_TERMS = 32
MAX_FACTORED = 10**9
"""Radicands up to here are brought to squarefree form exactly, by trial division."""
MAX_RADICAND = 10**10
"""Largest radicand of a product: its smallest factor must be found quickly."""


class NotExact(Exception):
    """The number is no short sum of roots; balls can still enclose it."""


def _combined(parts: Iterable[tuple[int, Fraction]]) -> tuple[tuple[int, Fraction], ...]:
    """Collect equal radicands, drop zeros, sort. Raises TooLarge or NotExact."""
    sums: dict[int, Fraction] = {}
    for radicand, factor in parts:
        sums[radicand] = sums.get(radicand, Fraction(0)) + factor
    terms = tuple(sorted((r, f) for r, f in sums.items() if f))
    if len(terms) > MAX_TERMS:
        raise NotExact
    for _, factor in terms:
        if max(factor.numerator.bit_length(), factor.denominator.bit_length()) > MAX_BITS:
            raise TooLarge(f"a number of more than {MAX_BITS} bits")
    return terms


@dataclass(frozen=True, slots=True)
class Surd:
    """The number that is the sum of factor * sqrt(radicand) over its terms."""

    terms: tuple[tuple[int, Fraction], ...]
    """(squarefree radicand, nonzero factor), sorted; radicand 1 is the rational part."""

    @classmethod
    def of(cls, value: Fraction | int) -> "Surd":
        """Return a rational number."""
        return cls(_combined([(1, Fraction(value))]))

    @property
    def is_rational(self) -> bool:
        """True for a number without roots."""
        return all(radicand == 1 for radicand, _ in self.terms)

    @property
    def is_real(self) -> bool:
        """True for a number without i."""
        return all(radicand > 0 for radicand, _ in self.terms)

    def rational(self) -> Fraction:
        """Return the rational part: the number itself when `is_rational`."""
        return next((factor for radicand, factor in self.terms if radicand == 1), Fraction(0))

    def bits(self) -> int:
        """Return the bits of the longest numerator or denominator."""
        sizes = (max(f.numerator.bit_length(), f.denominator.bit_length()) for _, f in self.terms)
        return max(sizes, default=1)

    def __add__(self, other: "Surd") -> "Surd":
        return Surd(_combined((*self.terms, *other.terms)))

    def __neg__(self) -> "Surd":
        return Surd(tuple((radicand, -factor) for radicand, factor in self.terms))

    def __sub__(self, other: "Surd") -> "Surd":
        return self + -other

    def __mul__(self, other: "Surd") -> "Surd":
        if len(self.terms) * len(other.terms) > MAX_TERMS**2:
            raise NotExact
        return Surd(
            _combined(_root_product(m, n, a * b) for m, a in self.terms for n, b in other.terms)
        )

    def inverse(self) -> "Surd":
        """Return 1 / self by conjugation. Raises Undefined for zero."""
        if not self.terms:
            raise Undefined("division by zero")
        if len(self.terms) == 1:
            radicand, factor = self.terms[0]
            return Surd(_combined([(radicand, 1 / (factor * radicand))]))
        generator = _generator(next(r for r, _ in self.terms if r != 1))
        conjugate = Surd(tuple((r, -f if _has(r, generator) else f) for r, f in self.terms))
        return conjugate * (self * conjugate).inverse()

    def power(self, exponent: int) -> "Surd":
        """Return self to an integer power. Raises TooLarge, and Undefined for 0 to 0 or less."""
        if exponent <= 0 and not self.terms:
            raise Undefined(f"zero to the power {exponent}")
        if self in (Surd.of(1), Surd.of(-1)):
            return self if exponent % 2 else Surd.of(1)
        if abs(exponent) > MAX_EXPONENT or self.bits() * abs(exponent) > MAX_BITS:
            raise TooLarge(f"a power with exponent {str(exponent)[:24]}")
        base, result = (self if exponent > 0 else self.inverse()), Surd.of(1)
        for bit in bin(abs(exponent))[2:]:
            result = result * result
            if bit == "1":
                result = result * base
        return result


def _root_product(m: int, n: int, factor: Fraction) -> tuple[int, Fraction]:
    """Return (radicand, factor) of factor * sqrt(m) * sqrt(n)."""
    shared = gcd(m, n)
    sign = -1 if m < 0 and n < 0 else 1
    radicand = (m // shared) * (n // shared)
    if abs(radicand) > MAX_RADICAND:
        raise NotExact
    return radicand, factor * shared * sign


def _generator(radicand: int) -> int:
    """Return -1 for a negative radicand, else its smallest prime factor."""
    if radicand < 0:
        return -1
    return next((p for p in _divisors_to(radicand) if radicand % p == 0), radicand)


def _has(radicand: int, generator: int) -> bool:
    return radicand < 0 if generator == -1 else radicand % generator == 0


def _divisors_to(number: int) -> Iterable[int]:
    """Yield 2 and the odd numbers up to the root of `number`."""
    yield 2
    yield from range(3, isqrt(abs(number)) + 1, 2)


def square_root(value: Fraction, *, factor: bool = True) -> Surd | None:
    """Return the exact square root of a rational, or None where that would cost too much.

    A negative value gives a multiple of i. Without `factor` only perfect squares are exact.
    """
    product = value.numerator * value.denominator
    square, free = _squarefree(abs(product), factor)
    if free is None:
        return None
    radicand = -free if product < 0 else free
    return Surd(_combined([(radicand, Fraction(square, value.denominator))]))


def _squarefree(number: int, factor: bool) -> tuple[int, int | None]:
    """Write number = square**2 * free with squarefree `free`; free is None when not found."""
    root = isqrt(number)
    if root * root == number:
        return root, 1
    if not factor or number > MAX_FACTORED:
        return 1, None
    square, free, rest, divisor = 1, 1, number, 2
    while divisor**3 <= rest:  # what then remains is a prime, a product of two, or a square
        while rest % (divisor * divisor) == 0:
            square, rest = square * divisor, rest // (divisor * divisor)
        if rest % divisor == 0:
            free, rest = free * divisor, rest // divisor
        divisor += 1 if divisor == 2 else 2
    root = isqrt(rest)
    if root * root == rest:
        return square * root, free
    return square, free * rest


def integer_root(value: Fraction, degree: int) -> Fraction | None:
    """Return the exact real root of a non-negative rational, or None if it is irrational."""
    top, bottom = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _whole_root(number: int, degree: int) -> int | None:
    """Return the exact root of a natural number by bisection, or None."""
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low if low**degree == number else None
