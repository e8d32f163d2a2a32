"""Number tokens to numbers: the grammar of digits."""

import re
from fractions import Fraction

from openzaya.envs.math.limits import MAX_EXPONENT, TooLarge, Unreadable
from openzaya.envs.math.syntax import Num, NumberForm
from openzaya.envs.math.tokens import Token


def read_number(token: Token) -> Num:
    """Return the value of a number token. Raises Unreadable for zeros as in 00.5, and TooLarge."""
    mantissa, _, exponent = token.text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(whole) > 1 and whole[0] == "0" and (point or exponent):
        raise Unreadable(f"{token.text[:20]!r} has leading zeros")
    num_digits = len(whole) + len(decimals)
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    if not exponent:
        form: NumberForm = "decimal" if point else "integer"
        return Num(value, form, num_digits)
    if len(exponent) > 6 or abs(int(exponent)) > MAX_EXPONENT:
        raise TooLarge(f"a decimal exponent of {exponent[:12]}")
    return Num(value * Fraction(10) ** int(exponent), "scientific", num_digits)


def read_repeating(token: Token) -> Num:
    r"""Return the value of a decimal with a period, such as 0.1\overline{6} or 0.1\dot6."""
    plain, _, command = token.text.partition("\\")
    period = re.sub(r"[^0-9]", "", command)
    whole, _, decimals = plain.partition(".")
    scale = 10 ** len(decimals)
    value = Fraction(int((whole + decimals) or "0"), scale)
    value += Fraction(int(period), (10 ** len(period) - 1) * scale)
    return Num(value, "repeating", len(whole) + len(decimals) + len(period))
