"""Which language a text is in, for ten languages besides English.

Languages with a script of their own are told by the script (four fifths of the letters), those in
Latin letters by their function words: the text must use more of them than of any other language's.
The table is `languages.toml`.
"""

import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from openzaya.envs.instruct.reading import words

MIN_FUNCTION_SHARE = 0.15
"""Least share of function words in a text of a language in Latin letters."""
MIN_SCRIPT_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Language:
    """A language that can be told from the others."""

    name: str
    function_words: frozenset[str]
    """Empty for a language told by its script."""
    ranges: tuple[tuple[int, int], ...]
    """Code points of the script, ends included; empty for Latin letters."""
    sentences: tuple[str, ...]
    """Plain sentences without commas, digits or apostrophes, for witnesses."""


@cache
def languages() -> dict[str, Language]:
    """Return the known languages by English name, English included."""
    table = tomllib.loads(Path(__file__).with_name("languages.toml").read_text(encoding="utf-8"))
    return {
        name: Language(
            name=name,
            function_words=frozenset(row.get("function_words", "").split()),
            ranges=tuple((first, last) for first, last in row.get("ranges", [])),
            sentences=tuple(row.get("sentences", [])),
        )
        for name, row in table.items()
    }


def _in_script(character: str, language: Language) -> bool:
    return any(first <= ord(character) <= last for first, last in language.ranges)


def is_language(text: str, name: str) -> bool:
    """Say whether a text is mainly in the language called `name`."""
    wanted = languages()[name]
    letters = list(filter(str.isalpha, text))
    if not letters:
        return False
    if wanted.ranges:
        inside = sum(_in_script(letter, wanted) for letter in letters)
        return inside >= MIN_SCRIPT_SHARE * len(letters)
    latin = len(letters) if text.isascii() else sum(x.lower() <= "\u024f" for x in letters)
    counts = Counter(words(text))
    shares = {
        language.name: sum(counts[word] for word in language.function_words & counts.keys())
        for language in languages().values()
        if not language.ranges
    }
    own = shares.pop(name)
    return (
        latin >= MIN_SCRIPT_SHARE * len(letters)
        and own >= MIN_FUNCTION_SHARE * counts.total()
        and own > max(shares.values())
    )
