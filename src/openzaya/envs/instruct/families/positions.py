"""Positions: where in the reply words stand."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import FILLER, is_prose, joined, paragraphs, swap_word
from openzaya.envs.instruct.reading import Reading, words


def _in_paragraph(text: str, word: str, index: int, pen: Pen) -> str:
    """Return the text with the word mentioned in one of its paragraphs."""
    parts = paragraphs(text)
    if is_prose(parts[index]):
        parts[index] = pen.add(parts[index], pen.mention(word))
        return joined(parts)
    at = 0 if index == 0 else len(parts)
    return joined([*parts[:at], pen.mention(word), *parts[at:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class WordInFirstParagraph(Constraint):
    """A word occurs in the first of several paragraphs."""

    word: str
    rarity = 2
    wordings = (
        'Write at least two paragraphs and use the word "{word}" in the first one.',
        'The word "{word}" must appear in the first paragraph; write two or more paragraphs.',
    )
    claims = frozenset({"start"})
    bans = frozenset({"blocks"})
    examples = (Example({"word": "tea"}, "Tea.\n\nYes.", "Yes.\n\nTea."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """It is there."""
        return len(reply.paragraphs) > 1 and self.word in words(reply.paragraphs[0])

    def satisfy(self, pen: Pen) -> str:
        """Mention it there."""
        text = pen.text
        if len(paragraphs(text)) < 2:
            text = pen.block(text, pen.sentence())
        return _in_paragraph(text, self.word, 0, pen)

    def violate(self, text: str) -> str:
        """Take it out."""
        return swap_word(text, self.word, FILLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordOnlyInLastParagraph(Constraint):
    """A word occurs in the last paragraph and nowhere before."""

    word: str
    rarity = 3
    wordings = (
        'Use the word "{word}" in the last paragraph only; write at least two paragraphs.',
        'The word "{word}" must appear in the last of two or more paragraphs, but not earlier.',
    )
    claims = frozenset({"end", "every paragraph"})
    bans = frozenset({"blocks"})
    turn = 8
    examples = (Example({"word": "tea"}, "Yes.\n\nTea.", "Tea.\n\nTea."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """It is there, and not before."""
        inside = [self.word in words(part) for part in reply.paragraphs]
        return len(inside) > 1 and inside[-1] and not any(inside[:-1])

    def satisfy(self, pen: Pen) -> str:
        """Take it out everywhere and mention it at the end."""
        text = pen.text
        text = swap_word(text, self.word, FILLER)
        if len(paragraphs(text)) < 2:
            text = pen.block(text, pen.sentence())
        return _in_paragraph(text, self.word, len(paragraphs(text)) - 1, pen)

    def violate(self, text: str) -> str:
        """Mention it first."""
        return f"{self.word}.\n\n{text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsTogether(Constraint):
    """Two words occur in one sentence."""

    first: str
    second: str
    rarity = 2
    wordings = (
        'Use the words "{first}" and "{second}" together in one sentence.',
        'At least one sentence must contain both "{first}" and "{second}".',
    )
    bans = frozenset({"few words"})
    examples = (
        Example({"first": "sun", "second": "sea"}, "Sea and sun. Yes.", "The sun. The sea."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two keywords."""
        first, second = draw.keywords(2)
        return cls(first=first, second=second)

    def check(self, reply: Reading) -> bool:
        """Some sentence has both."""
        return any({self.first, self.second} <= set(words(said)) for said in reply.sentences)

    def satisfy(self, pen: Pen) -> str:
        """Mention both at once."""
        return pen.add(pen.text, pen.mention(f"{self.first} and {self.second}"))

    def violate(self, text: str) -> str:
        """Take one out."""
        return swap_word(text, self.second, FILLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsApart(Constraint):
    """Two words both occur, but never in the same sentence."""

    first: str
    second: str
    rarity = 2
    wordings = (
        'Use both "{first}" and "{second}", but never in the same sentence.',
        'The words "{first}" and "{second}" must both appear, always in different sentences.',
    )
    examples = (
        Example({"first": "sun", "second": "sea"}, "The sun. The sea.", "Sun. Sea. Sun and sea."),
        Example({"first": "sun", "second": "sea"}, "The sea. The sun.", "The sun."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two keywords."""
        first, second = draw.keywords(2)
        return cls(first=first, second=second)

    def check(self, reply: Reading) -> bool:
        """Both are there, no sentence has both."""
        pair = {self.first, self.second}
        both = all(word in reply.counts for word in pair)
        return both and not any(pair <= set(words(said)) for said in reply.sentences)

    def satisfy(self, pen: Pen) -> str:
        """Mention one after the other."""
        text = pen.text
        for word in (self.first, self.second):
            text = pen.add(swap_word(text, word, FILLER), pen.mention(word))
        return text

    def violate(self, text: str) -> str:
        """Mention both at once."""
        return f"{text}\n\nSo {self.first} and {self.second}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Acrostic(Constraint):
    """The first letters of the lines spell a word."""

    word: str
    rarity = 3
    wordings = (
        'Write an acrostic: the first letters of your non-empty lines must spell "{word}" from top'
        " to bottom.",
        'Use as many lines as "{word}" has letters; their first letters, in order, spell it.',
    )
    claims = frozenset(
        {"lines", "paragraphs", "start", "end", "paragraph start", "every paragraph", "sentences"}
        | {"sentence length", "openers", "words", "whole", "list"}
    )
    needs = frozenset({"english", "bare lines"})
    bans = frozenset({"blocks", "capitals", "long reply"})
    turn = 10
    examples = (Example({"word": "so"}, "Sun above\n\nother stars", "Sun above\nmany stars"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Four letters, later five or six."""
        short, long = ("calm", "hope", "kind", "wise"), ("bright", "steady", "gentle", "forest")
        return cls(word=draw.rng.choice(short if draw.level < 4 else long))

    def check(self, reply: Reading) -> bool:
        """As many lines as letters, in any case."""
        firsts = [next(filter(str.isalnum, line), "").lower() for line in reply.lines]
        return "".join(firsts) == self.word

    def satisfy(self, pen: Pen) -> str:
        """Find or make a line for each letter out of what there is."""
        text = pen.text
        lines = []
        said = Reading(text).sentences
        for place, letter in enumerate(self.word):
            line = said[place] if place < len(said) else pen.sentence()
            lines.append(f"{_STARTS[letter]} {line[:1].lower()}{line[1:]}")
        return "\n".join([*lines[:-1], " ".join([lines[-1], *said[len(lines) :]])])

    def violate(self, text: str) -> str:
        """Add a line."""
        return f"{text}\nAnd one more."


_STARTS = {
    "a": "And", "b": "But", "c": "Clearly", "d": "Do", "e": "Even so", "f": "For",
    "g": "Given that", "h": "However", "i": "In all", "k": "Knowing that", "l": "Let it be that",
    "m": "Mostly", "n": "Now", "o": "Or", "p": "Perhaps", "r": "Really", "s": "So", "t": "Then",
    "w": "Well", "y": "Yet",
}  # fmt: skip
