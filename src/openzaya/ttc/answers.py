r"""Answers that are written differently and mean the same, for the vote.

Only what is safe to merge is merged: spaces, wrappers (`$...$`, `\text{...}`, bold), the form of a
number, a final dot, a number with and without its unit where no two units are named. Whether an
answer is right is the grader's business. Every step reads a text once; long texts are left alone.

Paper: VI-A. Deviation: D-014.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

MAX_CHARS = 512
"""Longer answers are texts, not values: only their spaces are made equal."""
MAX_DIGITS = 40
MAX_WRAPPERS = 8
"""Wrappers around wrappers that are taken off."""

_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("`", "`"),
)
_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|boxed|operatorname)\{([^{}]*)\}")
_BESIDE_TEXT = re.compile(r"(?<=\d)(?=\\(?:text|mathrm|mbox)\{)")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\!")
_DEGREE = re.compile(r" ?(?:\^(?:\{\\circ\}|\\circ)|\u00b0)")
_SPACE = re.compile(r"(\\\\)|\\[,;: ]|~")
"""Spaces, but not the end of a matrix' row."""
_SAME = (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\u2212", "-"), ("\\%", "%"), ("{,}", ","))
_TWO_BARE = re.compile(r"\\frac ?(?:\{([^{}]*)\}|(\d)) ?(?:\{([^{}]*)\}|(\d))")
_ONE_BARE = re.compile(r"\\sqrt ?(\d)")
_BRACED = re.compile(r"([\^_])\{(\w)\}")
_QUOTIENT = re.compile(
    r"([+-]?) ?\\frac\{((?:[^{}+\-/]|\{[^{}]*\})+)\}\{(\d+|[A-Za-z]|\\[A-Za-z]+)\}"
)
"""A fraction that is all there is: within a longer term a slash would bind less."""
_NAMED = re.compile(r"[A-Za-z]\s*=\s*(.+)", re.DOTALL)
_NUMBER = re.compile(
    r"([+-]?) ?(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d*)(?:\.(\d*))?(?: ?/ ?(\d+))?"
)
_MIXED = re.compile(r"([+-]?) ?(\d+)? ?(?:\\frac\{([+-]?\d+)\}\{(\d+)\}|(?<=\d )(\d+) ?/ ?(\d+))")
"""A fraction of LaTeX, or with a whole number before it."""
_PERCENT = re.compile(r"(.*\d) ?(?:%|percent|per cent)")
_UNIT = re.compile(r"(.*\d) ((?:[A-Za-z]+ )?(?:[A-Za-z]{2,}|[ACFJKLNVWghms]))(?:\^?([23]))?")
_SYMBOL = re.compile(
    r"(.*\d)([mcdk]m|[mk]?g|ml|ms|min|[kM]?Hz|kJ|eV|rad|ft|lb|oz|\u00b0 ?[CF]?)(?:\^?([23]))?"
)
"""A unit without a space: of other letters, 2x is no 2."""
_UNITS = {
    spelling: spellings.split()[0]
    for spellings in (
        *("mm millimeter millimetre", "cm centimeter centimetre", "m meter metre", "in inch inche"),
        *("km kilometer kilometre", "ft foot feet", "yd yard", "mi mile", "mg milligram", "g gram"),
        *("kg kilogram", "lb pound", "oz ounce", "ms millisecond", "s sec second", "min minute"),
        *("h hr hour", "day", "week", "month", "yr year", "L l liter litre", "ml milliliter"),
        *("\u00b0 deg degree", "rad radian", "$ dollar", "cent", "euro", "Hz hertz", "kHz", "MHz"),
        *("J joule", "kJ", "eV", "N newton", "W watt", "V volt", "A ampere", "K kelvin"),
        *("C \u00b0C celsius", "F \u00b0F fahrenheit"),
    )
    for spelling in spellings.split()
}
"""Units that tell answers apart. Of other nouns only the number counts: 12 ways, 12 paths."""
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_OF = "\u00a0"
"""Between a number and its unit; no answer has it, since its spaces are made plain."""
_NO_UNITS = re.compile(
    r"\b(?:[ap]m|(?:hundred|thousand|[mbtr]+illion)(?:th)?s?|dozens?|hal(?:f|ves)|quarters?"
    r"|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?|negative|minus|plus|times|point|base"
    r"|or|and|to|mod|pi|sqrt|log|ln|sin|cos|tan|exp)\b",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"\(?([A-Za-z])[.):]?\)?")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_LATEX = re.compile(r"\\(?:begin|end)\{[a-z]*\*?\}|\\[A-Za-z]+")
_LOOSE = re.compile(r"(?<![\w.]) | (?![\w.])")
"""A space that keeps no two numbers or names apart."""
_SAID = frozenset({"yes", "no", "true", "false"})


def canonical(answer: str) -> str:
    """Return a text that is the same for answers that mean the same."""
    text = " ".join(answer.split())
    if len(text) > MAX_CHARS or (text[:1] in ("{", "[") and '"' in text):
        return text
    text = _unwrapped(text)
    named = _NAMED.fullmatch(text)
    text = _unwrapped(named[1]) if named else text
    number = _number(text) or _measured(text)
    if number is not None:
        return number
    choice = _CHOICE.fullmatch(text)
    if choice:
        return choice[1]
    if text.lower() in _SAID:
        return text.lower()
    text = _QUOTIENT.sub(r"\1\2/\3", text) if _QUOTIENT.fullmatch(text) else text
    return text if _WORDS.search(_LATEX.sub("", text)) else _LOOSE.sub("", text)


def classes(answers: Sequence[str | None], same: Callable[[str], str]) -> list[str | None]:
    """Return the class of each answer by `same`; None stays None.

    A bare number goes with the one unit that others give it: of 12, 12 cm, 5, 5 m and 5 cm the
    first two are one class and the last three are three.
    """
    found = [None if answer is None else same(answer) for answer in answers]
    measured: dict[str, set[str]] = {}
    for text in found:
        if text is not None and _OF in text:
            measured.setdefault(text.partition(_OF)[0], set()).add(text)
    only = {number: min(texts) for number, texts in measured.items() if len(texts) == 1}
    return [None if text is None else only.get(text, text) for text in found]


def _unwrapped(text: str) -> str:
    """Take off dots, dollar signs, bold and text commands, from the outside in."""
    for _ in range(MAX_WRAPPERS):
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for opening, closing in _WRAPPERS:
            inner = len(text) - len(opening) - len(closing)
            if inner > 0 and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        text = _COMMAND.sub(r"\1", _BESIDE_TEXT.sub(" ", text))
        text = " ".join(_SPACE.sub(r"\1 ", _DROPPED.sub("", text)).split())
        if text == before:
            break
    text = _DEGREE.sub("\u00b0", text)
    for form, usual in _SAME:
        text = text.replace(form, usual)
    text = _TWO_BARE.sub(lambda m: f"\\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    return _BRACED.sub(r"\1\2", _ONE_BARE.sub(r"\\sqrt{\1}", text)).strip()


def _measured(text: str) -> str | None:
    """Return a number that has a percent sign or a unit, and the unit if it is a known one."""
    percent = _PERCENT.fullmatch(text)
    if percent:
        number = _number(percent[1])
        return number and f"{number}%"
    if text.startswith(("$", "\\$")):
        number = _number(text.lstrip("\\$"))
        return number and f"{number}{_OF}$"
    match = _UNIT.fullmatch(text) or _SYMBOL.fullmatch(text)
    number = _number(match[1]) if match and not _NO_UNITS.search(text) else None
    if match is None or number is None:
        return None
    unit = _unit(match[2].replace(" ", "") if "\u00b0" in match[2] else match[2], match[3])
    return number if unit is None else f"{number}{_OF}{unit}"


def _unit(name: str, power: str | None) -> str | None:
    """Return a known unit in one spelling with its power, as cm^2 for square centimeters."""
    before, _, last = name.rpartition(" ")
    small = last.lower() if len(last) > 2 else last
    unit = _UNITS.get(last) or _UNITS.get(small) or _UNITS.get(small.removesuffix("s"))
    power = _POWERS.get(before.lower(), power)
    return unit if unit is None or power is None else f"{unit}^{power}"


def _number(text: str) -> str | None:
    """Return a number in lowest terms, None for what is none: 0.50 and 2/4 give 1/2."""
    if len(text) > MAX_DIGITS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        return _fraction(text)
    sign, whole, decimals, divisor = match.groups()
    whole = whole.replace(",", "").replace(" ", "")
    if not whole and not decimals:
        return None
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(int((whole or "0") + (decimals or "")), 10 ** len(decimals or ""))
    value /= int(divisor or "1")
    return str(-value if sign == "-" else value)


def _fraction(text: str) -> str | None:
    """Return a fraction of LaTeX, or a mixed number such as 1 1/2, in lowest terms."""
    match = _MIXED.fullmatch(text)
    if match is None:
        return None
    sign, whole, over, under = match[1], match[2], match[3] or match[5], match[4] or match[6]
    if int(under) == 0 or (whole and not 0 <= int(over) < int(under)):
        return None
    value = int(whole or "0") + Fraction(int(over), int(under))
    return str(-value if sign == "-" else value)


def tool_call_answer(calls: str | Sequence[Mapping[str, Any]]) -> str | None:
    """Return tool calls as one text to vote on: names and arguments, as canonical JSON.

    Takes OpenAI's list of calls or its JSON; ids and the order of keys do not matter, arguments may
    be JSON text or an object. None for what holds no calls. For use in an `extract`.
    """
    try:
        items = json.loads(calls) if isinstance(calls, str) else list(calls)
    except (ValueError, RecursionError):
        return None
    items = [items] if isinstance(items, Mapping) else items
    if not isinstance(items, list) or not items:
        return None
    named = [_call(item) for item in items]
    if not all(named):
        return None
    return json.dumps(named, sort_keys=True, separators=(",", ":"))


def _call(item: object) -> dict[str, Any] | None:
    if not isinstance(item, Mapping):
        return None
    function = item.get("function", item)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = " ".join(arguments.split())
    return {"name": function["name"], "arguments": arguments}
