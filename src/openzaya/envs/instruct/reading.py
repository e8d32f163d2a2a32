"""How a reply is read: lines, paragraphs, sentences and words, each worked out once.

All constraints share this reading, so a word or a sentence means the same everywhere:

- outer whitespace, trailing spaces and the style of line endings never count
- a paragraph is what stands between blank lines, a list or a table included
- a word is letters and digits, perhaps joined inside by hyphens or apostrophes; 3.50 is one word
- a sentence ends in . ! ? before whitespace; a blank line or a list item ends one too

Everything here takes time linear in the length of the reply, and no reading goes beyond the first
20,000 characters, so every checker is bounded.
"""

import re
from collections import Counter
from functools import cached_property

_WORD = re.compile(r"(?:[0-9]+(?:[.,:][0-9]+)+|[^\W_]+)(?:['-][^\W_]+)*")
_MARKER = re.compile(
    r"[ \t]*(?:>[ \t]?)?(?:#{1,6}[ \t]+|(?:[-*+\u2022]|[0-9]{1,3}[.)]|[A-Za-z]\))[ \t]+)"
    r"(?:\[[ xX]\][ \t]+)?"
)
_BLOCK = re.compile(
    r"[ \t]*(?:#{1,6}[ \t]|[-*+\u2022][ \t]|[0-9]{1,3}[.)][ \t]|[A-Za-z]\)[ \t]|[>|]|```"
    r"|-{3}|\*{3}|<)"
)
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_CLOSERS = "\"')]*_\u2019\u201d\u00bb"
_OPENERS = "\"'([*_\u2018\u201c\u00ab"
_ENDS = ".!?\u2026\u0964"
MAX_REPLY_CHARS = 20_000
"""Nothing reads beyond this; longer replies are wrong by rule, no prompt needs 3,000."""
ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "cf", "approx", "fig",
    "dept", "inc", "ltd", "jr", "sr", "p.s", "p.p.s", "a.m", "p.m", "u.s", "u.k", "mt", "tbsp",
    "tsp", "ph.d", "capt", "gen", "gov", "sen", "rev", "vol",
})  # fmt: skip
"""A full stop after one of these does not end a sentence."""


def normalise(text: str) -> str:
    """Return text with plain spaces, hyphens and newlines, no outer or trailing whitespace."""
    text = text.replace("\u2010", "-").replace("\u2011", "-")
    text = _SPACES.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def words(text: str) -> list[str]:
    """Return the words in lower case, with typewriter apostrophes."""
    return _WORD.findall(text.replace("\u2019", "'").lower())


def is_block(line: str) -> bool:
    """Say whether a line is a list item, heading, quote, table row, fence, rule or tag."""
    return _BLOCK.match(line) is not None


def unmarked(line: str) -> str:
    """Return a line without its list marker or heading sign."""
    found = _MARKER.match(line)
    return line[found.end() :] if found else line


def ends_sentence(token: str) -> bool:
    """Say whether a sentence ends with this run of non-space characters."""
    core = token.rstrip(_CLOSERS)
    if not core or core[-1] not in _ENDS:
        return False
    stem = core.rstrip(".").lstrip(_OPENERS)
    initial = len(stem) == 1 and "A" <= stem <= "Z" and stem != "I"
    return core[-1] != "." or not (initial or stem.lower() in ABBREVIATIONS)


def _units(paragraph: str) -> list[str]:
    """Return the runs of prose and the single block lines of a paragraph."""
    units: list[list[str]] = []
    open_prose = False
    for line in paragraph.split("\n"):
        block = is_block(line)
        if block or not open_prose:
            units.append([])
        units[-1].append(unmarked(line))
        open_prose = not block
    return [" ".join(unit) for unit in units]


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of one paragraph; spaces between words become single."""
    sentences: list[str] = []
    for unit in _units(paragraph):
        tokens: list[str] = []
        for token in unit.split():
            tokens.append(token)
            if ends_sentence(token):
                sentences.append(" ".join(tokens))
                tokens = []
        sentences.append(" ".join(tokens))
    return [sentence for sentence in sentences if _WORD.search(sentence)]


class Reading:
    """A reply and its parts."""

    def __init__(self, text: str) -> None:
        self.text = normalise(text[:MAX_REPLY_CHARS])

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between blank lines."""
        return [part.strip("\n") for part in re.split(r"\n{2,}", self.text) if part]

    @cached_property
    def sentences(self) -> list[str]:
        """All sentences, headings and list items included."""
        return [sentence for part in self.paragraphs for sentence in split_sentences(part)]

    @cached_property
    def words(self) -> list[str]:
        """All words in lower case; the markers of lists are none."""
        return words("\n".join(map(unmarked, self.text.split("\n"))))

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each word occurs."""
        return Counter(self.words)

    @cached_property
    def letters(self) -> Counter[str]:
        """How often each character occurs, in lower case."""
        return Counter(self.text.lower())
