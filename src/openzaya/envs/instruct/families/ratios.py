"""Ratios: averages and shares over the whole reply."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import map_prose
from openzaya.envs.instruct.reading import Reading, words

SHORT_LETTERS = 4
"""Words of at most this length are short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortWordsShare(Constraint):
    """At least a given share of the words are short."""

    percent: int
    rarity = 3
    wordings = (
        "At least {percent}% of your words must have four letters or fewer.",
        "Prefer short words: {percent} percent or more of all words have at most four letters.",
    )
    bans = frozenset({"long words"})
    turn = 8
    examples = (Example({"percent": 50}, "The big elephant slept.", "Enormous elephants sleep."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From 50 to 60 percent."""
        return cls(percent=50 + 5 * min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """The share is high enough."""
        short = sum(len(word) <= SHORT_LETTERS for word in reply.words)
        return bool(reply.words) and 100 * short >= self.percent * len(reply.words)

    def allows(self, sentence: str) -> bool:
        """Only sentences that keep the share."""
        return self.check(Reading(sentence))

    def satisfy(self, pen: Pen) -> str:
        """Drop a sentence, then add one of short words."""
        text = pen.text
        return pen.add(
            pen.drop(text), "So it is what it is, and we can go on with it as it is now."
        )

    def violate(self, text: str) -> str:
        """Use long words throughout."""
        return "elephants everywhere " * (len(words(text)) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageSentenceAtMost(Constraint):
    """The average sentence is short."""

    count: int
    rarity = 3
    wordings = (
        "On average, your sentences must have at most {count} words; write three or more.",
        "Keep the average sentence length to {count} words or fewer over at least three sentences.",
    )
    claims = frozenset({"sentence length"})
    bans = frozenset({"unpunctuated"})
    turn = 8
    examples = (Example({"count": 2}, "One. One. One two three four.", "One. One. A b c d e."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From fourteen words down to ten."""
        return cls(count=max(10, 14 - draw.level // 2))

    def check(self, reply: Reading) -> bool:
        """Words inside sentences over the number of sentences."""
        total = sum(len(words(sentence)) for sentence in reply.sentences)
        return len(reply.sentences) > 2 and total <= self.count * len(reply.sentences)

    def allows(self, sentence: str) -> bool:
        """Only sentences below the limit."""
        return len(words(sentence)) < self.count

    def satisfy(self, pen: Pen) -> str:
        """Add short ones."""
        return pen.add(pen.drop(pen.text), "So it is.")

    def violate(self, text: str) -> str:
        """Make one long sentence of it."""
        return f"{text}\n\n{'on and ' * 3 * self.count * (len(words(text)) + 1)}on."


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageWordAtMost(Constraint):
    """The average word is short."""

    letters: float
    rarity = 3
    wordings = (
        "Use plain words: the average word must have at most {letters} letters.",
        "Keep the average length of your words to {letters} letters or less.",
    )
    bans = frozenset({"long words", "hyphen"})
    turn = 8
    examples = (Example({"letters": 3.0}, "One big bad idea is ok.", "Enormous mistakes."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From five letters down to four and a half."""
        return cls(letters=max(4.5, 5.0 - 0.1 * (draw.level // 2)))

    def check(self, reply: Reading) -> bool:
        """Characters of words over the number of words."""
        total = sum(map(len, reply.words))
        return bool(reply.words) and total <= self.letters * len(reply.words)

    def allows(self, sentence: str) -> bool:
        """Only sentences of plain words."""
        return self.check(Reading(sentence))

    def satisfy(self, pen: Pen) -> str:
        """Leave out a long word in each sentence."""
        text = pen.text

        def plain(said: list[str]) -> list[str]:
            return [" ".join(sorted_out(sentence)) for sentence in said]

        return map_prose(text, plain)

    def violate(self, text: str) -> str:
        """Use long words throughout."""
        return "elephants everywhere " * (len(words(text)) + 1)


def sorted_out(sentence: str) -> list[str]:
    """Return the tokens of a sentence without its longest inner one."""
    tokens = sentence.split()
    inner = range(1, len(tokens) - 1)
    longest = max(inner, key=lambda at: len(tokens[at]), default=None)
    return [token for at, token in enumerate(tokens) if at != longest]
