r"""Answers that are written differently and mean the same, for the vote.

Only what is safe to merge is merged: spaces, wrappers (`$...$`, `\text{...}`, bold), the form of a
number, a unit behind a number, a final dot. Whether an answer is right is the grader's business.
Every step reads a text once, and long texts are left alone.

Paper: VI-A. Deviation: D-014.
"""

import json
import re
from collections.abc import Mapping, Sequence
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
_DROPPED = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!,;:]|~")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}|\\[dt]?frac(\d)(\d)")
_DEGREES = re.compile(r"\^(?:\{\\circ\}|\\circ)")
_NAMED = re.compile(r"[A-Za-z]\s*=\s*(.+)", re.DOTALL)
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(?:/(\d+))?")
_UNIT = re.compile(r"(\S*\d\S*?)\s*(?:\\ )?\s*([A-Za-z]+(?: [A-Za-z]+)?(?:\^?\{?[23]\}?)?)")
_CHOICE = re.compile(r"\(?([A-Za-z])[.):]?\)?")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_SAID = frozenset({"yes", "no", "true", "false"})


def canonical(answer: str) -> str:
    """Return a text that is the same for answers that mean the same."""
    text = " ".join(answer.split())
    if len(text) > MAX_CHARS or text[:1] in ("{", "["):
        return text
    text = _unwrapped(text)
    text = _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
    named = _NAMED.fullmatch(text)
    text = _unwrapped(named[1]) if named else text
    number = _number(text)
    if number is not None:
        return number
    unit = _UNIT.fullmatch(text)
    number = _number(unit[1]) if unit else None
    if number is not None:
        return number
    choice = _CHOICE.fullmatch(text)
    if choice:
        return choice[1]
    if text.lower() in _SAID:
        return text.lower()
    return text if _WORDS.search(text.replace("\\", " ")) else text.replace(" ", "")


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
        text = _DROPPED.sub("", _DEGREES.sub("", _COMMAND.sub(r"\1", text)))
        if text == before:
            break
    return text.strip()


def _number(text: str) -> str | None:
    """Return a number in lowest terms, None for what is none: 0.50 and 2/4 give 1/2."""
    match = _NUMBER.fullmatch(text.replace(" ", ""))
    if match is None or len(text) > MAX_DIGITS:
        return None
    sign, whole, decimals, divisor = match.groups()
    whole = whole.replace(",", "")
    if not whole and not decimals:
        return None
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(int((whole or "0") + (decimals or "")), 10 ** len(decimals or ""))
    value /= int(divisor or "1")
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
