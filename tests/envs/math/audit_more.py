r"""More makers of problems for `audit`: intervals, matrices, words, formulas, units."""

from fractions import Fraction
from random import Random

from envs.math.audit_forms import PLAIN, Made, Written, distinct, frac

from openzaya.envs.math.gold import Rules


def interval(rng: Random) -> Made:
    """Make a problem whose answer is a bounded interval."""
    low, high = sorted(distinct(rng, 2))
    left, right_closed = rng.choice((True, False)), rng.choice((True, False))
    opener, closer = "[" if left else "(", "]" if right_closed else ")"
    first, second = "\\le" if left else "<", "\\le" if right_closed else "<"
    a, b = frac(low), frac(high)
    text = f"{opener}{a}, {b}{closer}"
    flipped = f"{'(' if left else '['}{a}, {b}{closer}"
    half = f"{opener}{a}, {b}{')' if right_closed else ']'}"
    middle = frac((low + high) / 2)
    right = [
        ("plain", text),
        ("left and right", f"\\left{text[:-1]}\\right{closer}"),
        ("inequality for an interval", f"{a} {first} x {second} {b}"),
        ("membership", f"x \\in {text}"),
        (
            "reversed inequality",
            f"{b} {second.replace('le', 'ge').replace('<', '>')} x "
            f"{first.replace('le', 'ge').replace('<', '>')} {a}",
        ),
        ("set-builder", f"\\{{x \\mid {a} {first} x {second} {b}\\}}"),
        ("union that joins", f"{opener}{a}, {middle}] \\cup ({middle}, {b}{closer}"),
    ]
    wrong = [
        ("open for closed", flipped),
        ("open for closed", half),
        ("ends swapped", f"{opener}{b}, {a}{closer}"),
        ("end changed", f"{opener}{a}, {frac(high + 1)}{closer}"),
        ("half line", f"x > {a}"),
        ("set for an interval", f"\\{{{a}, {b}\\}}"),
        ("point missing", f"{opener}{a}, {middle}) \\cup ({middle}, {b}{closer}"),
    ]
    return text, "interval", PLAIN, tuple(right), tuple(wrong)


def union(rng: Random) -> Made:
    """Make a problem whose answer is two half lines."""
    low, high = sorted(distinct(rng, 2))
    a, b = frac(low), frac(high)
    text = f"(-\\infty, {a}) \\cup ({b}, \\infty)"
    right = [
        ("plain", text),
        ("pieces swapped", f"({b}, \\infty) \\cup (-\\infty, {a})"),
        ("inequalities for a union", f"x < {a} \\text{{ or }} x > {b}"),
        ("plus infinity", f"(-\\infty, {a}) \\cup ({b}, +\\infty)"),
        ("membership", f"x \\in {text}"),
    ]
    wrong = [
        ("open for closed", f"(-\\infty, {a}] \\cup [{b}, \\infty)"),
        ("piece missing", f"(-\\infty, {a})"),
        ("complement", f"({a}, {b})"),
        ("and for or", f"x < {a} \\text{{ and }} x > {b}"),
        ("all reals", "\\mathbb{R}"),
    ]
    return text, "interval", PLAIN, tuple(right), tuple(wrong)


def matrix(rng: Random) -> Made:
    """Make a problem whose answer is a matrix of two rows and two or three columns."""
    columns = rng.choice((2, 3))
    values = distinct(rng, 2 * columns)
    rows = [values[:columns], values[columns:]]

    def written(lines: list[list[Fraction]], name: str) -> str:
        body = " \\\\ ".join(" & ".join(map(frac, line)) for line in lines)
        return f"\\begin{{{name}}} {body} \\end{{{name}}}"

    plain = ", ".join(f"[{', '.join(map(frac, line))}]" for line in rows)
    transposed = [list(column) for column in zip(*rows, strict=True)]
    changed = [[rows[0][0] + 1, *rows[0][1:]], rows[1]]
    array = written(rows, "array").replace("{array} ", f"{{array}}{{{'c' * columns}}} ", 1)
    right = [
        ("plain", written(rows, "pmatrix")),
        ("square brackets", written(rows, "bmatrix")),
        ("array", f"\\left({array}\\right)"),
        ("nested lists", f"[{plain}]"),
        ("label", f"A = {written(rows, 'pmatrix')}"),
    ]
    wrong = [
        ("transposed", written(transposed, "pmatrix")),
        ("element changed", written(changed, "pmatrix")),
        ("rows swapped", written(rows[::-1], "pmatrix")),
        ("flattened", ", ".join(map(frac, values))),
    ]
    return written(rows, "pmatrix"), "matrix", PLAIN, tuple(right), tuple(wrong)


def choice(rng: Random) -> Made:
    """Make a multiple-choice problem."""
    letter = rng.choice("ABCDE")
    other = rng.choice([each for each in "ABCDE" if each != letter])
    right = [
        ("plain", letter),
        ("letter in brackets", f"({letter})"),
        ("letter as text", f"\\text{{{letter}}}"),
        ("letter as text", f"\\textbf{{({letter})}}"),
        ("letter with a value", f"\\textbf{{({letter})}}\\ 12"),
    ]
    wrong = [
        ("other letter", other),
        ("hedge", f"{letter} \\text{{ or }} {other}"),
        ("shotgun", "ABCDE"),
        ("list", f"{other}, {letter}"),
    ]
    return letter, "choice", PLAIN, tuple(right), tuple(wrong)


def word(rng: Random) -> Made:
    """Make a problem whose answer is one of a few words."""
    words = rng.choice((("yes", "no"), ("true", "false"), ("even", "odd"), ("red", "blue")))
    gold, other = rng.sample(words, 2)
    right = [
        ("word", gold),
        ("word as text", f"\\text{{{gold}}}"),
        ("word with a capital", f"\\text{{{gold.capitalize()}}}"),
    ]
    wrong = [
        ("other word", f"\\text{{{other}}}"),
        ("hedge", f"\\text{{{gold} or {other}}}"),
        ("hedge", f"\\text{{{gold}}}, \\text{{{other}}}"),
        ("denied word", f"\\text{{not {gold}}}"),
    ]
    return gold, "text", Rules(choices=words), tuple(right), tuple(wrong)


def signed(value: int) -> str:
    """Write a summand with its sign."""
    return f"+{value}" if value >= 0 else str(value)


def polynomial(rng: Random) -> Made:
    """Make a problem whose answer is a quadratic polynomial with integer roots."""
    p, q, a = rng.randint(1, 9), rng.randint(10, 19), rng.randint(2, 7)
    b, c = -a * (p + q), a * p * q
    text = f"{a}x^2{signed(b)}x{signed(c)}"
    right = [
        ("plain", text),
        ("factored", f"{a}(x-{p})(x-{q})"),
        ("summands swapped", f"{c}{signed(b)}x+{a}x^2"),
        ("stars", f"{a}*x^2{signed(b)}*x{signed(c)}"),
        ("braces", f"{a}x^{{2}}{signed(b)}x{signed(c)}"),
        ("label of a call", f"f(x) = {text}"),
        ("factor taken out", f"{a}(x^2-{p + q}x{signed(p * q)})"),
        ("fraction of whole value", f"\\frac{{{2 * a}x^2{signed(2 * b)}x{signed(2 * c)}}}{{2}}"),
    ]
    wrong = [
        ("constant changed", f"{a}x^2{signed(b)}x{signed(c + 1)}"),
        ("sign", f"{a}x^2{signed(-b)}x{signed(c)}"),
        ("other letter", text.replace("x", "t")),
        ("other roots", f"{a}(x+{p})(x-{q})"),
        ("equation", f"{text} = 0"),
        ("junk that is nowhere defined", f"{text} + 0 \\cdot \\ln(-x^2)"),
        ("junk that is often undefined", f"{text} + 0 \\cdot \\ln(x - 3)"),
        (
            "left undone: derivative",
            f"\\frac{{d}}{{dx}}({frac(Fraction(a, 3))}x^3{signed(b)}x^2{signed(c)}x)",
        ),
        ("left undone: call", f"diff({a}*x^3/3 + {b}*x^2/2 + {c}*x, x)"),
        ("name for the answer", "f(x)"),
        ("nearly equal", f"{text} + 10^{{-30}}"),
    ]
    return text, "expression", Rules(variables=("x",)), tuple(right), tuple(wrong)


def wave(rng: Random) -> Made:
    """Make a problem whose answer is a trigonometric, exponential or logarithmic formula."""
    a, b = rng.randint(2, 9), rng.randint(2, 6)
    rules = Rules(variables=("x",))
    makers: list[tuple[str, list[Written], list[Written]]] = [
        (
            f"{2 * a}\\sin x\\cos x",
            [
                ("identity", f"{a}\\sin(2x)"),
                ("function without brackets", f"{a}\\sin 2x"),
                ("function with brackets", f"{2 * a}\\sin(x)\\cos(x)"),
            ],
            [("factor forgotten", f"{2 * a}\\sin(2x)"), ("other function", f"{a}\\cos(2x)")],
        ),
        (
            f"{a}e^{{{b}x}}",
            [("power of a power", f"{a}(e^x)^{{{b}}}"), ("exp", f"{a}\\exp({b}x)")],
            [("factor in the wrong place", f"e^{{{a * b}x}}"), ("sign", f"{a}e^{{-{b}x}}")],
        ),
        (
            f"\\ln(x^2+{a})",
            [
                ("log for ln", f"\\log(x^2+{a})"),
                ("half of a square", f"\\frac{{1}}{{2}}\\ln((x^2+{a})^2)"),
            ],
            [("log of summands", f"\\ln(x^2)+\\ln({a})"), ("square outside", f"\\ln^2(x+{a})")],
        ),
        (
            f"\\frac{{x}}{{x^2+{a}}}",
            [
                ("slash", f"x/(x^2+{a})"),
                ("negative power", f"x(x^2+{a})^{{-1}}"),
                ("quotient split", f"\\frac{{1}}{{x+\\frac{{{a}}}{{x}}}}"),
            ],
            [("slash without brackets", f"x/x^2+{a}"), ("inverse", f"\\frac{{x^2+{a}}}{{x}}")],
        ),
    ]
    text, right, wrong = rng.choice(makers)
    right += [("plain", text), ("label", f"y = {text}")]
    wrong += [("shifted", f"{text}+1"), ("variable missing", text.replace("x", "1"))]
    return text, "expression", rules, tuple(right), tuple(wrong)


def measured(rng: Random) -> Made:
    """Make a problem whose answer has a unit."""
    n = rng.randint(2, 500)
    unit, long, other = rng.choice(
        (
            ("cm", "centimeters", "m"),
            ("kg", "kilograms", "g"),
            ("m/s", "meters per second", "km/h"),
            ("cm^2", "square centimeters", "cm^3"),
        )
    )
    right = [
        ("unit as text", f"{n}\\text{{ {unit}}}"),
        ("unit in roman type", f"{n}\\,\\mathrm{{{unit}}}"),
        ("unit spelled out", f"{n}\\text{{ {long}}}"),
        ("unit left out", str(n)),
    ]
    wrong = [
        ("other unit", f"{n}\\text{{ {other}}}"),
        ("off by one", f"{n + 1}\\text{{ {unit}}}"),
    ]
    return str(n), "integer", Rules(unit=unit), tuple(right), tuple(wrong)


def share(rng: Random) -> Made:
    """Make a problem whose answer is a percentage."""
    n = rng.randint(2, 99)
    value = Fraction(n, 100)
    right = [
        ("percentage", f"{n}\\%"),
        ("fraction for a percentage", frac(value)),
        ("decimal for a percentage", f"0.{n:02d}"),
    ]
    wrong = [
        ("percent sign missing", str(n)),
        ("off by one", f"{n + 1}\\%"),
        ("factor ten", f"0.0{n:02d}"),
    ]
    return f"{n}\\%", "rational", PLAIN, tuple(right), tuple(wrong)


MORE_FORMS = [interval, union, matrix, choice, word, polynomial, wave, measured, share]
"""All makers of this file."""
