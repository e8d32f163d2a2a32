"""Keywords in relation: one of several, in order, more often than another."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import FILLER, joined, paragraphs, swap_word
from openzaya.envs.instruct.reading import Reading, words


def _position(reply: Reading, word: str) -> int:
    """Return the place of the first occurrence among the words, or -1."""
    return reply.words.index(word) if word in reply.counts else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyOneOf(Constraint):
    """Exactly one of several words is used, as often as one likes."""

    words: tuple[str, ...]
    rarity = 3
    wordings = (
        "Use exactly one of the words {words} and leave out the others.",
        "Pick one of {words}, use it at least once, and do not use the other words.",
    )
    examples = (
        Example({"words": ["cat", "dog"]}, "A cat sees a cat.", "A cat sees a dog."),
        Example({"words": ["cat", "dog"]}, "One dog.", "One bird."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three words, later four."""
        return cls(words=draw.keywords(3 if draw.level < 4 else 4))

    def check(self, reply: Reading) -> bool:
        """One of them, none of the others."""
        return sum(word in reply.counts for word in self.words) == 1

    def satisfy(self, pen: Pen) -> str:
        """Keep or mention the first."""
        text = pen.text
        for word in self.words[1:]:
            text = swap_word(text, word, FILLER)
        kept = self.words[0]
        return text if kept in Reading(text).counts else pen.add(text, pen.mention(kept))

    def violate(self, text: str) -> str:
        """Use two."""
        return f"{text}\n{self.words[0]}\n{self.words[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsInOrder(Constraint):
    """The first occurrences of the words come in the order given."""

    words: tuple[str, ...]
    rarity = 2
    wordings = (
        "Use the words {words}; each must first appear before the next one does.",
        "The words {words} should make their first appearance in this order.",
    )
    examples = (
        Example({"words": ["sun", "sea"]}, "Sun and sea and sun.", "Sea and sun and sea."),
        Example({"words": ["sun", "sea"]}, "The sun, then the sea.", "The sun alone."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four words."""
        return cls(words=draw.keywords(2 + min(draw.level // 3, 2)))

    def check(self, reply: Reading) -> bool:
        """All there, and the places rise."""
        places = [_position(reply, word) for word in self.words]
        return places[0] >= 0 and all(a < b for a, b in pairwise(places))

    def satisfy(self, pen: Pen) -> str:
        """Take them out, then mention all of them in one sentence after the other."""
        text = pen.text
        for word in self.words:
            text = swap_word(text, word, FILLER)
        return pen.add(text, " ".join(pen.mention(word) for word in self.words))

    def violate(self, text: str) -> str:
        """Leave the second one out."""
        return swap_word(text, self.words[1], FILLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordInEveryParagraph(Constraint):
    """Each paragraph contains the word."""

    word: str
    rarity = 2
    wordings = (
        'Use the word "{word}" in every paragraph (paragraphs are separated by blank lines).',
        'Each paragraph, that is each part between blank lines, must contain the word "{word}".',
    )
    claims = frozenset({"every paragraph"})
    bans = frozenset({"blocks"})
    examples = (Example({"word": "tea"}, "Tea.\n\nMore tea.", "Tea, tea.\n\nMore coffee."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """No paragraph without it, and there is one."""
        parts = reply.paragraphs
        return bool(parts) and all(self.word in words(part) for part in parts)

    def satisfy(self, pen: Pen) -> str:
        """Mention it where it is missing."""
        text = pen.text
        parts = paragraphs(text)
        for index, part in enumerate(parts):
            if self.word not in words(part):
                parts[index] = pen.add(part, pen.mention(self.word))
        return joined(parts)

    def violate(self, text: str) -> str:
        """Take it out everywhere."""
        return swap_word(text, self.word, FILLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreOften(Constraint):
    """One word occurs more often than another, and both occur."""

    more: str
    less: str
    rarity = 3
    wordings = (
        'Use both "{more}" and "{less}", but "{more}" more often than "{less}".',
        'The words "{more}" and "{less}" must both appear, the first more often than the second.',
    )
    examples = (
        Example({"more": "cat", "less": "dog"}, "Cat and dog and cat.", "Cat and dog."),
        Example({"more": "cat", "less": "dog"}, "A dog, a cat, a cat.", "A cat, a cat."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two keywords."""
        more, less = draw.keywords(2)
        return cls(more=more, less=less)

    def check(self, reply: Reading) -> bool:
        """Both are there, in this relation."""
        return reply.counts[self.more] > reply.counts[self.less] >= 1

    def satisfy(self, pen: Pen) -> str:
        """Mention the one as often as it takes."""
        text = pen.text
        if self.less not in Reading(text).counts:
            text = pen.add(text, pen.mention(self.less))
        counts = Reading(text).counts
        for _ in range(counts[self.less] - counts[self.more] + 1):
            text = pen.add(text, pen.mention(self.more))
        return text

    def violate(self, text: str) -> str:
        """Turn all of one kind into the other."""
        return swap_word(text, self.more, self.less)
