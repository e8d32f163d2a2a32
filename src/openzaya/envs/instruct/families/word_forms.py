"""Word forms: long, hyphenated, doubled letters, endings."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import mention_missing, without_words
from openzaya.envs.instruct.reading import Reading, words
from openzaya.envs.instruct.topics import pool, pools


def _num_letters(word: str) -> int:
    """Count letters; digits, hyphens and apostrophes are none."""
    return sum(map(str.isalpha, word))


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLongWords(Constraint):
    """No word has more than so many letters."""

    length: int
    rarity = 3
    wordings = (
        "Do not use any word with more than {length} letters (a hyphenated word counts as one).",
        "Every word must have at most {length} letters; hyphenated words count as one word.",
    )
    turn = 6
    bans = frozenset({"long words", "hyphen"})
    examples = (Example({"length": 5}, "A small plan works.", "A little plan works."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Twelve letters at first, later nine."""
        return cls(length=max(9, 12 - draw.level // 3))

    def check(self, reply: Reading) -> bool:
        """All words are short enough."""
        return all(_num_letters(word) <= self.length for word in reply.counts)

    def allows(self, sentence: str) -> bool:
        """Only sentences of short words."""
        return all(_num_letters(word) <= self.length for word in words(sentence))

    def satisfy(self, pen: Pen) -> str:
        """Leave the long words out."""
        return without_words(pen.text, rf"\w{{{self.length + 1}}}")

    def violate(self, text: str) -> str:
        """Use a long word."""
        return f"{text}\n{'very' * (self.length // 4 + 1)}long"


@dataclass(frozen=True, slots=True, kw_only=True)
class LongWordsAtLeast(Constraint):
    """At least so many different words are long."""

    length: int
    count: int
    rarity = 2
    wordings = (
        "Use at least {count} different words of {length} letters or more.",
        "At least {count} different words must have {length} or more letters each.",
    )
    needs = frozenset({"english", "long words"})
    examples = (
        Example({"length": 6, "count": 2}, "Little horses run.", "Little cats, little dogs."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Words of ten to twelve letters, two to five of them."""
        return cls(length=10 + min(draw.level // 3, 2), count=2 + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """Enough of them; hyphenated ones do not count."""
        single = (word for word in reply.counts if "-" not in word)
        return sum(_num_letters(word) >= self.length for word in single) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention long words."""
        return mention_missing(pen, pool("long"), self.count)

    def violate(self, text: str) -> str:
        """Cut the long words short."""
        return re.sub(rf"[^\W_]{{{self.length},}}", "short", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuffixAtLeast(Constraint):
    """At least so many different words end in a suffix."""

    suffix: str
    count: int
    rarity = 3
    wordings = (
        'Use at least {count} different words that end in "-{suffix}".',
        'At least {count} different words should end with the letters "{suffix}".',
    )
    examples = (
        Example({"suffix": "ly", "count": 2}, "Slowly and gently.", "Slowly, slowly, and softer."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four words."""
        return cls(
            suffix=draw.rng.choice(sorted(pools("suffixed"))), count=2 + min(draw.level // 3, 2)
        )

    def check(self, reply: Reading) -> bool:
        """Enough of them, each longer than the suffix itself."""
        long = (word for word in reply.counts if len(word) > len(self.suffix) + 1)
        return sum(word.endswith(self.suffix) for word in long) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention such words."""
        return mention_missing(pen, pools("suffixed")[self.suffix], self.count)

    def violate(self, text: str) -> str:
        """Give those words another ending."""
        return re.sub(rf"{re.escape(self.suffix)}(?![^\W_])", "o", text, flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HyphenatedAtLeast(Constraint):
    """At least so many different hyphenated words."""

    count: int
    rarity = 3
    wordings = (
        'Use at least {count} different hyphenated words, such as "two-sided".',
        "Your reply should contain {count} or more different words with a hyphen inside.",
    )
    needs = frozenset({"english", "hyphen"})
    examples = (
        Example({"count": 2}, "A well-known, open-minded man.", "A well-known one, well-known."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to five words."""
        return cls(count=2 + min(draw.level // 2, 3))

    def check(self, reply: Reading) -> bool:
        """Enough of them, with letters on both sides."""
        return sum(_hyphenated(word) for word in reply.counts) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention such words."""
        return mention_missing(pen, pool("hyphenated"), self.count)

    def violate(self, text: str) -> str:
        """Write them apart."""
        return text.replace("-", " ")


def _hyphenated(word: str) -> bool:
    parts = word.split("-")
    return len(parts) > 1 and all(part.isalpha() and len(part) > 1 for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubledLettersAtLeast(Constraint):
    """At least so many different words contain the same letter twice in a row."""

    count: int
    rarity = 3
    wordings = (
        'Use at least {count} different words with a doubled letter, such as "kettle".',
        "At least {count} different words must contain the same letter twice in a row.",
    )
    examples = (Example({"count": 2}, "Happy summer days.", "Happy, happy days"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Four to eight words."""
        return cls(count=4 + min(draw.level // 2, 4))

    def check(self, reply: Reading) -> bool:
        """Enough of them."""
        return sum(_doubled(word) for word in reply.counts) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention such words."""
        text = pen.text
        have = sum(_doubled(word) for word in Reading(text).counts)
        return mention_missing(pen, pool("doubled"), self.count - have)

    def violate(self, text: str) -> str:
        """Write every doubled letter once."""
        return re.sub(r"([^\W\d_])\1+", r"\1", text, flags=re.IGNORECASE)


def _doubled(word: str) -> bool:
    return any(a == b and a.isalpha() for a, b in pairwise(word))
