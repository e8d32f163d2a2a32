"""Ways to compare an output with the expected one, outside the sandbox; a problem names its own.

Texts (STDIN problems). CRLF and CR count as LF in every rule.
  EXACT             every character, but one newline at the end is optional
  LINES             trailing blanks of lines and blank lines at the end do not count: the default
  TOKENS            the words between white space, in order: `1` is not `1.0`
  TOKENS_CASELESS   TOKENS without regard to case: for yes/no answers
  NUMBERS           TOKENS, but decimal numbers need only be close: `1` is `1.0`; two integers
                    must still be equal
  UNORDERED_LINES   LINES in any order, as often as they come

Values (FUNCTION problems); types count: True is not 1 is not 1.0.
  VALUE             equal, types included
  VALUE_CLOSE       equal, types included, but floats need only be close
  VALUE_NUMERIC     VALUE_CLOSE, and an int may stand for a float (never a bool for either)
  VALUE_UNORDERED   VALUE, but the outermost list may come in any order

Two numbers are close when they differ by at most `absolute`, or by at most `relative` times the
expected one. NaN and infinities are close to nothing.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from openzaya.core.errors import DataError
from openzaya.envs.code.values import Json, canonical, same_value


class Comparison(StrEnum):
    """A rule; the module's text describes each."""

    EXACT = "exact"
    LINES = "lines"
    TOKENS = "tokens"
    TOKENS_CASELESS = "tokens_caseless"
    NUMBERS = "numbers"
    UNORDERED_LINES = "unordered_lines"
    VALUE = "value"
    VALUE_CLOSE = "value_close"
    VALUE_NUMERIC = "value_numeric"
    VALUE_UNORDERED = "value_unordered"

    @property
    def is_for_values(self) -> bool:
        """True when the rule compares JSON values, False when it compares texts."""
        return self.value.startswith("value")


NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?"
)
"""A decimal number in ASCII digits, of bounded length; `float` alone would also take others."""
INTEGER = re.compile(r"[+-]?[0-9]{1,400}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparator:
    """A rule and its tolerances."""

    kind: Comparison = Comparison.LINES
    relative: float = 1e-6
    absolute: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise DataError(f"comparator: {name} is {value}, but must be in [0, 1)")

    def accepts(self, output: Json, expected: Json) -> bool:
        """Say whether `output` is as good as `expected`."""
        if not self.kind.is_for_values:
            if not isinstance(output, str) or not isinstance(expected, str):
                return False
            return self.accepts_text(unix(output), unix(expected))
        if self.kind is Comparison.VALUE:
            return same_value(output, expected)
        if self.kind is Comparison.VALUE_UNORDERED:
            return same_unordered(output, expected)
        return self.accepts_value(output, expected)

    def accepts_text(self, output: str, expected: str) -> bool:
        """Compare two texts whose newlines are LF."""
        if self.kind is Comparison.EXACT:
            return output.removesuffix("\n") == expected.removesuffix("\n")
        if self.kind is Comparison.LINES:
            return lines_of(output) == lines_of(expected)
        if self.kind is Comparison.UNORDERED_LINES:
            return Counter(lines_of(output)) == Counter(lines_of(expected))
        if self.kind is Comparison.TOKENS_CASELESS:
            output, expected = output.casefold(), expected.casefold()
        words, wanted = output.split(), expected.split()
        if self.kind is not Comparison.NUMBERS:
            return words == wanted
        return len(words) == len(wanted) and all(map(self.accepts_word, words, wanted))

    def accepts_word(self, word: str, wanted: str) -> bool:
        """Compare two words, as numbers when both are numbers."""
        if word == wanted:
            return True
        if not (NUMBER.fullmatch(word) and NUMBER.fullmatch(wanted)):
            return False
        if INTEGER.fullmatch(word) and INTEGER.fullmatch(wanted):
            return int(word) == int(wanted)
        return self.is_close(float(word), float(wanted))

    def accepts_value(self, output: Json, expected: Json) -> bool:
        """Compare two values, their floats by tolerance."""
        if isinstance(expected, list):
            return (
                isinstance(output, list)
                and len(output) == len(expected)
                and all(map(self.accepts_value, output, expected))
            )
        if isinstance(expected, dict):
            return (
                isinstance(output, dict)
                and output.keys() == expected.keys()
                and all(self.accepts_value(output[key], expected[key]) for key in expected)
            )
        if isinstance(expected, float) and isinstance(output, float):
            return self.is_close(output, expected)
        if self.kind is Comparison.VALUE_NUMERIC and type(output) is not type(expected):
            number, wanted = as_number(output), as_number(expected)
            if number is not None and wanted is not None:
                return self.is_close(number, wanted)
        return same_value(output, expected)

    def is_close(self, number: float, wanted: float) -> bool:
        """Say whether two numbers are close; an overflow to infinity is close to nothing."""
        if not (math.isfinite(number) and math.isfinite(wanted)):
            return False
        return abs(number - wanted) <= max(self.absolute, self.relative * abs(wanted))


TEXTS = Comparator()
"""The usual rule for STDIN problems."""
VALUES = Comparator(kind=Comparison.VALUE)
"""The usual rule for FUNCTION problems."""


def unix(text: str) -> str:
    """Return a text with LF newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """Return the lines without trailing blanks, and without blank lines at the end."""
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def as_number(value: Json) -> float | None:
    """Return an int or float as a float; None for anything else or beyond floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def same_unordered(output: Json, expected: Json) -> bool:
    """Compare two lists as multisets, and other values as they are."""
    if not (isinstance(output, list) and isinstance(expected, list)):
        return same_value(output, expected)
    # canonical texts differ between 1, 1.0 and true, so equal texts are equal values; of equal
    # values only zeros have two texts
    return Counter(map(unsigned, output)) == Counter(map(unsigned, expected))


def unsigned(value: Json) -> str:
    """Return a value's canonical text with every zero positive."""
    return canonical(json.loads(canonical(value), parse_float=lambda text: float(text) + 0.0))
