r"""Makers of problems for `audit`: a value, its gold, right ways to write it, and near misses.

A maker returns (gold, kind, rules, right, wrong); answers are (style, text). Styles are the names
under which a disagreement with another grader is explained.
"""

from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from random import Random

from openzaya.envs.math.gold import Rules

Written = tuple[str, str]
Made = tuple[str, str, Rules, tuple[Written, ...], tuple[Written, ...]]

PLAIN = Rules()


def frac(value: Fraction) -> str:
    r"""Write a fraction as \frac, an integer plainly."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def slash(value: Fraction) -> str:
    """Write a fraction with a slash."""
    return str(value)


def integer(rng: Random) -> Made:
    """Make a whole number problem."""
    n = rng.choice((1, -1)) * rng.randint(2, 10 ** rng.randint(1, 7))
    k = rng.randint(2, 9)
    a = rng.randint(1, 99)
    right = [
        ("plain", str(n)),
        ("label", f"x = {n}"),
        ("label of a call", f"f({k}) = {n}"),
        ("decimal zeros", f"{n}.0"),
        ("fraction of whole value", frac_unreduced(Fraction(n), k)),
        ("unicode minus", str(n).replace("-", "\u2212")),
        ("unit where none is asked for", f"{n}\\text{{ cm}}"),
        ("working shown", f"{n - a} + {a} = {n}"),
        ("identical equality", f"{n} = {n}"),
        ("text command", f"{n}\\text{{ apples}}"),
    ]
    if abs(n) >= 1000:
        right += [("thousands comma", f"{n:,}"), ("thousands braces", f"{n:,}".replace(",", "{,}"))]
        right += [("thousands thin space", f"{n:,}".replace(",", "\\,"))]
    wrong = [
        ("off by one", str(n + rng.choice((1, -1)))),
        ("sign", str(-n)),
        ("factor ten", str(n * 10)),
        ("near decimal", f"{n}.001"),
        ("hedge", f"{n} \\text{{ or }} {n + 1}"),
        ("list", f"{n}, {n + 1}"),
        ("left undone: sum", f"{n - a} + {a}"),
        ("left undone: product", f"{n} \\cdot 1"),
        ("left undone: summation", f"\\sum_{{k=1}}^{{1}} {n}"),
        ("left undone: integral", f"\\int_0^1 {n}\\,dx"),
        ("left undone: root", f"\\sqrt{{{n * n}}}" if n > 0 else f"-\\sqrt{{{n * n}}}"),
        ("false equality", f"{n} = {n + 1}"),
        ("false equality, right last", f"{n + 1} = {n}"),
        ("percent", f"{n}\\%"),
        ("variable", "x"),
        ("both signs", f"\\pm {abs(n)}"),
        ("two boxes", f"{n + 1}}} \\text{{ or }} \\boxed{{{n}"),
        ("inequality", f"x \\ge {n}"),
        ("with a variable", f"{n}x"),
    ]
    return str(n), "integer", PLAIN, tuple(right), tuple(wrong)


def frac_unreduced(value: Fraction, factor: int) -> str:
    """Write a fraction with both sides multiplied."""
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator) * factor}}}{{{value.denominator * factor}}}"


def rational(rng: Random) -> Made:
    """Make a fraction problem."""
    q = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 20, 25, 64))
    value = Fraction(rng.choice((1, -1)) * rng.randint(1, 40) * q + rng.randint(1, q - 1), q)
    value = value if value.denominator > 1 else value + Fraction(1, q)
    size, sign = abs(value), "-" if value < 0 else ""
    top, bottom = size.numerator, size.denominator
    right = [
        ("plain", frac(value)),
        ("dfrac", frac(value).replace("frac", "dfrac")),
        ("slash", slash(value)),
        ("unreduced", frac_unreduced(value, rng.randint(2, 9))),
        ("label", f"p = {frac(value)}"),
        ("sign inside", f"\\frac{{{value.numerator}}}{{{bottom}}}"),
        ("both signs inside", f"\\frac{{{-value.numerator}}}{{-{bottom}}}"),
    ]
    if size > 1:
        whole, rest = divmod(top, bottom)
        right.append(("mixed number", f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}"))
        right.append(("plain mixed number", f"{sign}{whole} {rest}/{bottom}"))
    if 10**6 % bottom == 0:
        digits = f"{size.numerator * 10**6 // bottom:07d}"
        decimal = f"{sign}{digits[:-6]}.{digits[-6:].rstrip('0')}"
        right += [("decimal", decimal), ("decimal label", f"x = {decimal}")]
    if bottom in (3, 9):
        nines = 9 // bottom * (top % bottom)
        right.append(("repeating decimal", f"{sign}{top // bottom}.\\overline{{{nines}}}"))
    if 100 % bottom == 0:
        right.append(("percentage", f"{sign}{top * 100 // bottom}\\%"))
    third = frac(value - 1)
    wrong = [
        ("inverse", frac(1 / value)),
        ("sign", frac(-value)),
        ("off by one", frac(Fraction(value.numerator + 1, bottom))),
        ("close fraction", frac(value + Fraction(1, 10**6))),
        ("decimal comma", f"{sign}{top // bottom},{top % bottom}"),
        ("ratio", f"{value.numerator}:{bottom}"),
        ("left undone: sum", f"1 + {third}" if value > 1 else f"{third} + 1"),
        ("list", f"{frac(value)}, {frac(-value)}"),
    ]
    if abs(value.numerator) != 1:  # else nothing is nested: 1 over a whole number is the answer
        wrong.append(("left undone: nested fraction", f"\\frac{{1}}{{{frac(1 / value)}}}"))
    if 10**6 % bottom:
        wrong.append(("rounded decimal", f"{float(value):.4f}"))
    return frac(value), "rational", PLAIN, tuple(right), tuple(wrong)


def tolerant(rng: Random) -> Made:
    """Make a decimal problem with a tolerance of 0.01."""
    hundredths = rng.randint(200, 99999)
    text = f"{hundredths // 100}.{hundredths % 100:02d}"
    off = rng.randint(1, 9)
    right = [
        ("plain", text),
        ("within the tolerance", f"{hundredths // 100}.{hundredths % 100:02d}{off}"),
        ("approximately", f"x \\approx {text}"),
        ("fraction", f"\\frac{{{hundredths}}}{{100}}"),
        ("label", f"x = {text}"),
    ]
    wrong = [
        ("outside the tolerance", f"{(hundredths + 2 + off) / 100:.2f}"),
        ("outside the tolerance", f"{(hundredths - 2 - off) / 100:.2f}"),
        ("sign", f"-{text}"),
        ("factor ten", f"{hundredths // 10}.{hundredths % 10}"),
    ]
    return text, "decimal", Rules(tolerance=0.01), tuple(right), tuple(wrong)


def squarefree(rng: Random) -> int:
    """Draw a squarefree number."""
    return rng.choice((2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21, 22, 23, 26, 29, 30))


def root(rng: Random) -> Made:
    """Make a problem whose answer is a multiple of a root."""
    a, b = rng.randint(2, 30), squarefree(rng)
    text = f"{a}\\sqrt{{{b}}}"
    value = isqrt(a * a * b * 10**8)
    right = [
        ("plain", text),
        ("root not simplified", f"\\sqrt{{{a * a * b}}}"),
        ("dot", f"{a} \\cdot \\sqrt{{{b}}}"),
        ("times", f"{a} \\times \\sqrt{{{b}}}"),
        ("not rationalised", f"\\frac{{{a * b}}}{{\\sqrt{{{b}}}}}"),
        ("half power", f"{a} \\cdot {b}^{{1/2}}"),
        ("plain-text root", f"{a}*sqrt({b})"),
        ("unicode root", f"{a}\u221a{b}"),
        ("label", f"AB = {text}"),
        ("followed by approximation", f"{text} \\approx {value // 10**4}.{value % 10**4:04d}"),
    ]
    wrong = [
        ("decimal for a root", f"{value // 10**4}.{value % 10**4:04d}"),
        ("other radicand", f"{a}\\sqrt{{{b + 1}}}"),
        ("other factor", f"{a + 1}\\sqrt{{{b}}}"),
        ("sign", f"-{text}"),
        ("both signs", f"\\pm {text}"),
        ("left undone: sum", f"{a - 1}\\sqrt{{{b}}} + \\sqrt{{{b}}}"),
        ("root forgotten", f"{a * b}"),
    ]
    return text, "expression", PLAIN, tuple(right), tuple(wrong)


def quadratic(rng: Random) -> Made:
    """Make a problem whose answer is (a + b sqrt(c)) / d."""
    a, b, c, d = rng.randint(1, 20), rng.randint(1, 9), squarefree(rng), rng.randint(2, 9)
    s = f"{b if b > 1 else ''}\\sqrt{{{c}}}"
    text = f"\\frac{{{a}+{s}}}{{{d}}}"
    conjugate = a * a - b * b * c
    right = [
        ("plain", text),
        ("summands swapped", f"\\frac{{{s}+{a}}}{{{d}}}"),
        ("slash", f"({a}+{s})/{d}"),
        ("two fractions", f"{frac(Fraction(a, d))} + \\frac{{{s}}}{{{d}}}"),
        ("unreduced", f"\\frac{{{3 * a}+{3 * b}\\sqrt{{{c}}}}}{{{3 * d}}}"),
        ("label", f"x = {text}"),
    ]
    if conjugate:
        sign = "-" if conjugate < 0 else ""
        low = f"{d}({a}-{s})"
        right.append(("not rationalised", f"{sign}\\frac{{{abs(conjugate)}}}{{{low}}}"))
    wrong = [
        ("conjugate", f"\\frac{{{a}-{s}}}{{{d}}}"),
        ("sign", f"-{text}"),
        ("both signs", f"\\frac{{{a} \\pm {s}}}{{{d}}}"),
        ("other number", f"\\frac{{{a + 1}+{s}}}{{{d}}}"),
        ("decimal for a root", f"{(a + b * c**0.5) / d:.6f}"),
        ("sum under the root", f"\\frac{{\\sqrt{{{a + c}}}}}{{{d}}}"),
    ]
    return text, "expression", PLAIN, tuple(right), tuple(wrong)


def circle(rng: Random) -> Made:
    """Make a problem whose answer is a multiple of pi."""
    value = Fraction(rng.randint(1, 30), rng.choice((1, 2, 3, 4, 6, 12)))
    top = "" if value.numerator == 1 else str(value.numerator)
    low = value.denominator
    text = f"\\frac{{{top}\\pi}}{{{low}}}" if low > 1 else f"{top}\\pi"
    degrees = value * 180
    right = [
        ("plain", text),
        ("factor in front", f"{frac(value)}\\pi" if value != 1 else "\\pi"),
        ("slash", f"{top}\\pi/{low}" if low > 1 else f"{top}\\pi"),
        ("unicode pi", f"{value.numerator}\u03c0/{low}"),
        ("degrees for a multiple of pi", f"{degrees.numerator}^\\circ"),
        ("dot", f"{frac(value)} \\cdot \\pi"),
    ]
    wrong = [
        ("pi forgotten", frac(value)),
        ("decimal for pi", f"{float(value) * 3.141592653589793:.10f}"),
        ("close fraction for pi", frac(value * Fraction(355, 113))),
        ("inverse", f"\\frac{{{low}}}{{{value.numerator}\\pi}}"),
        ("degrees without a sign", str(degrees.numerator)),
        ("power of pi", f"{frac(value)}\\pi^2"),
    ]
    return text, "expression", PLAIN, tuple(right), tuple(wrong)


def complex_number(rng: Random) -> Made:
    """Make a problem whose answer is a + bi."""
    a, b = rng.randint(1, 30), rng.randint(2, 30)
    text = f"{a}+{b}i"
    right = [
        ("plain", text),
        ("summands swapped", f"{b}i+{a}"),
        ("dot", f"{a} + {b} \\cdot i"),
        ("label", f"z = {a} + {b}i"),
    ]
    wrong = [
        ("conjugate", f"{a}-{b}i"),
        ("imaginary unit forgotten", f"{a}+{b}"),
        ("parts swapped", f"{b + a + 1}+{a}i"),
        ("modulus", f"\\sqrt{{{a * a + b * b}}}"),
    ]
    return text, "expression", PLAIN, tuple(right), tuple(wrong)


def distinct(rng: Random, count: int) -> list[Fraction]:
    """Draw different small rationals."""
    found: list[Fraction] = []
    while len(found) < count:
        value = Fraction(rng.randint(-12, 12), rng.choice((1, 1, 1, 2, 3)))
        if value not in found:
            found.append(value)
    return found


def ordered(rng: Random) -> Made:
    """Make a problem whose answer is an ordered pair or triple."""
    values = distinct(rng, rng.choice((2, 2, 3)))
    parts = [frac(value) for value in values]
    listed = ", ".join(parts)
    names = "xyz"[: len(parts)]
    named = [f"{name} = {part}" for name, part in zip(names, parts, strict=True)]
    changed = ", ".join([frac(values[0] + 1), *parts[1:]])
    right = [
        ("plain", f"({listed})"),
        ("left and right", f"\\left({listed}\\right)"),
        ("tuple without brackets", listed),
        ("angle brackets", f"\\langle {listed} \\rangle"),
        ("named tuple", ", ".join(named)),
        ("named tuple, other order", ", ".join(reversed(named))),
        ("column vector", "\\begin{pmatrix}" + " \\\\ ".join(parts) + "\\end{pmatrix}"),
        ("label of a tuple", f"({', '.join(names)}) = ({listed})"),
        ("slash", f"({', '.join(map(str, values))})"),
    ]
    wrong = [
        ("order", f"({', '.join(reversed(parts))})"),
        ("set for a tuple", f"\\{{{listed}\\}}"),
        ("element changed", f"({changed})"),
        ("element missing", f"({', '.join(parts[:-1])})"),
        ("element too many", f"({listed}, 0)"),
        ("tuple with or", " \\text{ or } ".join(parts)),
    ]
    return f"({listed})", "tuple", PLAIN, tuple(right), tuple(wrong)


def unordered(rng: Random) -> Made:
    """Make a problem whose answer is a set."""
    values = distinct(rng, rng.choice((2, 3, 3, 4)))
    parts = [frac(value) for value in values]
    mixed = rng.sample(parts, len(parts))
    listed = ", ".join(mixed)
    right = [
        ("plain", f"\\{{{', '.join(parts)}\\}}"),
        ("other order", f"\\{{{listed}\\}}"),
        ("set without braces", listed),
        ("named set", ", ".join(f"x = {part}" for part in mixed)),
        ("named once", f"x = {listed}"),
        ("set with or", " \\text{ or } ".join(f"x = {part}" for part in mixed)),
        ("set with and", f"{', '.join(mixed[:-1])} \\text{{ and }} {mixed[-1]}"),
        ("membership", f"x \\in \\{{{listed}\\}}"),
    ]
    wrong = [
        ("tuple for a set", f"({listed})"),
        ("element missing", f"\\{{{', '.join(mixed[:-1])}\\}}"),
        ("element too many", f"\\{{{listed}, 99\\}}"),
        ("element changed", f"\\{{{', '.join([*mixed[:-1], '77'])}\\}}"),
        ("shotgun", ", ".join(map(str, range(-40, 41)))),
    ]
    return f"\\{{{', '.join(parts)}\\}}", "set", PLAIN, tuple(right), tuple(wrong)


FORMS: list[Callable[[Random], Made]] = [
    integer,
    rational,
    tolerant,
    root,
    quadratic,
    circle,
    complex_number,
    ordered,
    unordered,
]
"""All makers."""
