"""Exact numbers keep the laws of a field; balls always contain the number they stand for."""

from fractions import Fraction

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.envs.math.balls import arithmetic
from openzaya.envs.math.evaluate import Scope, evaluate
from openzaya.envs.math.limits import TooLarge, Undefined
from openzaya.envs.math.parse import parse
from openzaya.envs.math.surds import Surd, integer_root, square_root

FRACTIONS = st.fractions(min_value=-50, max_value=50, max_denominator=30)


@st.composite
def surds(draw) -> Surd:
    number = Surd.of(draw(FRACTIONS))
    for radicand in draw(st.lists(st.sampled_from([-1, 2, 3, 5]), max_size=2)):
        number += square_root(Fraction(radicand)) * Surd.of(draw(FRACTIONS))
    return number


@settings(max_examples=25)
@given(surds(), surds(), surds())
def test_addition_and_multiplication_keep_the_laws_of_a_ring(a, b, c):
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) * c == a * c + b * c
    assert (a * b) * c == a * (b * c)
    assert a - a == Surd(())


@settings(max_examples=25)
@given(surds())
def test_a_number_times_its_inverse_is_one(a):
    if not a.terms:
        with pytest.raises(Undefined):
            a.inverse()
    else:
        assert a * a.inverse() == Surd.of(1)


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4))
def test_the_square_of_a_square_root_is_the_number(value):
    root = square_root(value)
    assert root is None or root * root == Surd.of(value)


@given(st.fractions(min_value=0, max_value=1000, max_denominator=50), st.integers(2, 7))
def test_an_exact_root_is_found_exactly_when_there_is_one(value, degree):
    assert integer_root(value**degree, degree) == value
    found = integer_root(value, degree)
    assert found is None or found**degree == value


@pytest.mark.parametrize("digits", [20, 60, 140])
@settings(max_examples=40)
@given(value=st.fractions(min_value=-2000, max_value=2000, max_denominator=10**9))
def test_a_ball_contains_the_value_of_the_function(digits, value):
    using = arithmetic(digits)
    ball = using.of(value)
    with mpmath.workdps(digits + 60):
        exact = mpmath.mpf(value.numerator) / value.denominator
        names = ["sin", "cos", "atan", *(["exp"] if abs(value) < 500 else [])]
        names += ["sqrt", "ln"] if value > 0 else []
        for name in names:
            found = getattr(using, name)(ball)
            error = abs(mpmath.mpf(str(found.mid)) - getattr(mpmath, name)(exact))
            radius = mpmath.mpf(str(found.rad))
            assert error <= radius, name
            assert radius <= mpmath.mpf(10) ** -digits * max(1, abs(getattr(mpmath, name)(exact)))


@pytest.mark.parametrize(
    "text", [r"\sin(\pi/6) - 1/2", r"\sqrt[3]{2}^3 - 2", r"4\arctan 1 - \pi", r"\ln 8 - 3\ln 2"]
)
def test_zero_stays_in_the_ball_of_an_identity(text):
    ball = evaluate(parse(text), Scope()).re
    assert ball.mid.copy_abs() <= ball.rad < 10**-60


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^9}}",
        "2^{100000}",
        "1001!",
        r"e^{e^{e^{e^e}}}",
        r"\sin(10^{9})",
        r"10^{4000} \cdot 10^{4000}",
    ],
)
def test_values_over_the_limits_are_refused_at_once(text):
    with pytest.raises(TooLarge):
        evaluate(parse(text), Scope())


@pytest.mark.parametrize(
    "text", ["1/0", "0^0", "0^{-1}", r"\ln 0", r"\ln(-1)", r"\sqrt{-2}", r"\frac{1}{1-1}", "(-1)!"]
)
def test_what_has_no_value_is_undefined(text):
    with pytest.raises(Undefined):
        evaluate(parse(text), Scope())


def test_a_function_costs_more_work_at_more_digits():
    tree = parse("+".join(rf"\sin({k})" for k in range(1, 130)))
    assert evaluate(tree, Scope(digits=60)).re.rad < 10**-50
    with pytest.raises(TooLarge, match="more work"):
        evaluate(tree, Scope(digits=580))
