"""Complex numbers as pairs of balls: what cannot be written exactly by roots."""

from typing import NamedTuple

from openzaya.envs.math.balls import ZERO, Ball, BallArithmetic
from openzaya.envs.math.limits import Undefined
from openzaya.envs.math.surds import Surd


class Box(NamedTuple):
    """A number whose real and imaginary part are enclosed by balls."""

    re: Ball
    im: Ball = ZERO

    @property
    def is_real(self) -> bool:
        """True when the imaginary part is exactly zero."""
        return self.im == ZERO


def enclose(number: Surd, using: BallArithmetic) -> Box:
    """Return the box around an exact number."""
    re = im = ZERO
    for radicand, factor in number.terms:
        term = using.of(factor)
        if abs(radicand) != 1:
            root = using.near.sqrt(abs(radicand))
            term = using.mul(term, using.ball(root))
        re, im = (using.add(re, term), im) if radicand > 0 else (re, using.add(im, term))
    return Box(re, im)


def add(a: Box, b: Box, using: BallArithmetic) -> Box:
    """Return a + b."""
    im = ZERO if a.is_real and b.is_real else using.add(a.im, b.im)
    return Box(using.add(a.re, b.re), im)


def negative(a: Box, using: BallArithmetic) -> Box:
    """Return -a."""
    return Box(using.neg(a.re), a.im if a.is_real else using.neg(a.im))


def multiply(a: Box, b: Box, using: BallArithmetic) -> Box:
    """Return a * b."""
    if a.is_real and b.is_real:
        return Box(using.mul(a.re, b.re))
    re = using.sub(using.mul(a.re, b.re), using.mul(a.im, b.im))
    return Box(re, using.add(using.mul(a.re, b.im), using.mul(a.im, b.re)))


def inverse(a: Box, using: BallArithmetic) -> Box:
    """Return 1 / a. Raises Undefined when a may be zero."""
    if a.is_real:
        return Box(using.inverse(a.re))
    norm = using.add(using.mul(a.re, a.re), using.mul(a.im, a.im))
    scale = using.inverse(norm)
    return Box(using.mul(a.re, scale), using.neg(using.mul(a.im, scale)))


def exponential(a: Box, using: BallArithmetic) -> Box:
    """Return e to the a, by Euler's formula."""
    size = using.exp(a.re)
    if a.is_real:
        return Box(size)
    return Box(using.mul(size, using.cos(a.im)), using.mul(size, using.sin(a.im)))


def whole_power(a: Box, exponent: int, using: BallArithmetic) -> Box:
    """Return a to an integer power by repeated squaring. Raises Undefined for 1/0."""
    result, base = Box(using.of_int(1)), a
    rest = abs(exponent)
    while rest:
        if rest & 1:
            result = multiply(result, base, using)
        rest >>= 1
        if rest:
            base = multiply(base, base, using)
    return inverse(result, using) if exponent < 0 else result


def real(a: Box) -> Ball:
    """Return the real part of a real number. Raises Undefined for a complex one."""
    if not a.is_real:
        raise Undefined("a function of real numbers was given a complex one")
    return a.re
