"""Letters: which letters occur and how often."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import mention_missing, without_words
from openzaya.envs.instruct.reading import Reading
from openzaya.envs.instruct.topics import pools


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterAtLeast(Constraint):
    """A letter occurs at least so many times."""

    letter: str
    count: int
    rarity = 2
    wordings = (
        'The letter "{letter}" should appear at least {count} times, in either case.',
        'Use the letter "{letter}" {count} times or more (capitals count too).',
    )
    turn = 6
    examples = (Example({"letter": "e", "count": 3}, "Eleven elms", "Many oaks and one elm"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Letters of middling frequency."""
        return cls(
            letter=draw.rng.choice("bcdfghlmpuwy"),
            count=draw.rng.randint(5, 8) + min(draw.level, 8),
        )

    def check(self, reply: Reading) -> bool:
        """Often enough."""
        return reply.letters[self.letter] >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences until there is enough of it, the richest of a few each time."""
        text = pen.text
        for _ in range(self.count):
            if self.check(Reading(text)):
                break
            offers = [pen.sentence() for _ in range(3)]
            text = pen.add(text, max(offers, key=lambda said: said.lower().count(self.letter)))
        return text

    def violate(self, text: str) -> str:
        """Leave all of them out."""
        return re.sub(re.escape(self.letter), "", text, flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterAtMost(Constraint):
    """A letter occurs at most so many times."""

    letter: str
    count: int
    rarity = 2
    wordings = (
        'The letter "{letter}" may appear at most {count} times, capitals included.',
        'Use the letter "{letter}" no more than {count} times in total.',
    )
    turn = 6
    examples = (Example({"letter": "e", "count": 1}, "Many oaks, one palm", "Eleven elms"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Rather rare letters, fewer at higher levels."""
        return cls(letter=draw.rng.choice("bfgkpvwy"), count=max(2, 10 - draw.level))

    def check(self, reply: Reading) -> bool:
        """Not too often."""
        return reply.letters[self.letter] <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Leave out sentences, then words, that contain it."""
        text = pen.text
        for _ in range(3):
            if Reading(text).letters[self.letter] > self.count:
                text = pen.drop(text)
        excess = Reading(text).letters[self.letter] > self.count
        return without_words(text, re.escape(self.letter)) if excess else text

    def violate(self, text: str) -> str:
        """Write it too often."""
        return f"{text}\n{' '.join([self.letter * 3] * self.count)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AvoidLetter(Constraint):
    """A letter does not occur at all."""

    letter: str
    rarity = 3
    wordings = (
        'Do not use the letter "{letter}" anywhere, neither small nor capital.',
        'Write without the letter "{letter}".',
    )
    turn = 6
    examples = (Example({"letter": "k"}, "A plain line.", "A book."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A rare letter; from level 4 on one that takes some care."""
        letters = "jqxz" if draw.level < 4 else "bkpvw"
        said = draw.topic.request.lower()
        return cls(
            letter=draw.rng.choice([letter for letter in letters if letter not in said] or ["q"])
        )

    def check(self, reply: Reading) -> bool:
        """It is not there."""
        return not reply.letters[self.letter]

    def allows(self, sentence: str) -> bool:
        """Only sentences without it."""
        return self.letter not in sentence.lower()

    def satisfy(self, pen: Pen) -> str:
        """Leave out the words that contain it."""
        return without_words(pen.text, re.escape(self.letter))

    def violate(self, text: str) -> str:
        """Write it once."""
        return f"{text}\n{self.letter.upper()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialAtLeast(Constraint):
    """At least so many words begin with a letter."""

    letter: str
    count: int
    rarity = 2
    wordings = (
        'At least {count} words must begin with the letter "{letter}".',
        'Use {count} or more words that start with "{letter}".',
    )
    examples = (Example({"letter": "b", "count": 2}, "Big boats sail.", "Big ships go about."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to seven words."""
        return cls(letter=draw.rng.choice("bcfgprw"), count=3 + min(draw.level // 2, 4))

    def check(self, reply: Reading) -> bool:
        """Enough of them."""
        return sum(word.startswith(self.letter) for word in reply.words) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention such words."""
        text = pen.text
        have = sum(word.startswith(self.letter) for word in Reading(text).words)
        return mention_missing(pen, pools("initials")[self.letter], self.count - have)

    def violate(self, text: str) -> str:
        """Begin those words with another letter."""
        pattern = rf"(?<![^\W_]){re.escape(self.letter)}"
        return re.sub(pattern, "o", text, flags=re.IGNORECASE)
