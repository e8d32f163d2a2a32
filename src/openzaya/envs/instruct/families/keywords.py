"""Keywords: which words or phrases occur, and how often.

A word counts when it stands alone, in any case: "river" is in "the River," but not in "rivers".
"""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import FILLER, swap_word
from openzaya.envs.instruct.reading import Reading, words
from openzaya.envs.instruct.topics import pool


@dataclass(frozen=True, slots=True, kw_only=True)
class IncludeWords(Constraint):
    """All of the words occur."""

    words: tuple[str, ...]
    rarity = 1
    wordings = (
        "Include all of these words: {words}.",
        "Make sure that each of the words {words} appears in your reply.",
        "Work in the following words: {words}.",
    )
    examples = (
        Example({"words": ["river", "bank"]}, "The River has a bank.", "The rivers have a bank."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two words, then more."""
        return cls(words=draw.keywords(min(2 + draw.level // 3, 5)))

    def check(self, reply: Reading) -> bool:
        """Every word is there."""
        return all(word in reply.counts for word in self.words)

    def satisfy(self, pen: Pen) -> str:
        """Mention what is missing."""
        text = pen.text
        for word in self.words:
            if word not in Reading(text).counts:
                text = pen.add(text, pen.mention(word))
        return text

    def violate(self, text: str) -> str:
        """Take one word out."""
        return swap_word(text, self.words[-1], FILLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class AvoidWords(Constraint):
    """None of the words occurs."""

    words: tuple[str, ...]
    rarity = 1
    wordings = (
        "Do not use any of these words: {words}.",
        "Avoid the words {words} altogether.",
        "Your reply must not contain the words {words}.",
    )
    examples = (Example({"words": ["very"]}, "Everything is fine.", "It is VERY fine."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Words that come up easily; from level 3 on, words of the topic."""
        offers = draw.topic.nouns[:8] if draw.level >= 3 else pool("easy")
        return cls(words=tuple(draw.rng.sample(offers, min(2 + draw.level // 3, 4))))

    def check(self, reply: Reading) -> bool:
        """No word is there."""
        return not any(word in reply.counts for word in self.words)

    def allows(self, sentence: str) -> bool:
        """Only sentences without them."""
        return not set(self.words) & set(words(sentence))

    def satisfy(self, pen: Pen) -> str:
        """Put something else in their place."""
        text = pen.text
        new = "matter" if FILLER in self.words else FILLER
        for word in self.words:
            text = swap_word(text, word, new)
        return text

    def violate(self, text: str) -> str:
        """Say one of them at the end."""
        return f"{text}\n{self.words[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordAtLeast(Constraint):
    """One word occurs at least so many times."""

    word: str
    count: int
    rarity = 1
    wordings = (
        'Use the word "{word}" at least {count} times.',
        'The word "{word}" should appear {count} times or more.',
    )
    examples = (
        Example({"word": "tea", "count": 2}, "Tea is tea.", "Tea is not coffee, a teapot no cup."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four times."""
        return cls(word=draw.keyword(), count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Often enough."""
        return reply.counts[self.word] >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention it until it is enough."""
        text = pen.text
        for _ in range(self.count - Reading(text).counts[self.word]):
            text = pen.add(text, pen.mention(self.word))
        return text

    def violate(self, text: str) -> str:
        """Take all of them out."""
        return swap_word(text, self.word, FILLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordExactly(Constraint):
    """One word occurs exactly so many times."""

    word: str
    count: int
    rarity = 2
    wordings = (
        'Use the word "{word}" exactly {count} times.',
        'The word "{word}" must occur {count} times, no more and no less.',
    )
    examples = (Example({"word": "tea", "count": 2}, "Tea is tea.", "Tea is tea is tea."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four times."""
        return cls(word=draw.keyword(), count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Neither more nor less."""
        return reply.counts[self.word] == self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention it as often as needed, from nothing when there are too many."""
        text = pen.text
        if Reading(text).counts[self.word] > self.count:
            text = swap_word(text, self.word, FILLER)
        for _ in range(self.count - Reading(text).counts[self.word]):
            text = pen.add(text, pen.mention(self.word))
        return text

    def violate(self, text: str) -> str:
        """Say it once more."""
        return f"{text}\n{self.word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordAtMost(Constraint):
    """One word of the topic occurs, but not more often than allowed."""

    word: str
    count: int
    rarity = 2
    wordings = (
        'Use the word "{word}" at least once but at most {count} times.',
        'Mention "{word}", but no more than {count} times.',
    )
    examples = (Example({"word": "tea", "count": 2}, "Tea is tea.", "Tea? Tea is tea."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three times at first, later two."""
        return cls(word=draw.rng.choice(draw.topic.nouns), count=3 if draw.level < 4 else 2)

    def check(self, reply: Reading) -> bool:
        """Between one and the limit."""
        return 1 <= reply.counts[self.word] <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Start over with one mention."""
        return pen.add(swap_word(pen.text, self.word, FILLER), pen.mention(self.word))

    def violate(self, text: str) -> str:
        """Say it too often."""
        return text + f"\n{self.word}" * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseVerbatim(Constraint):
    """A phrase occurs word for word."""

    phrase: str
    rarity = 1
    wordings = (
        'Include the phrase "{phrase}" word for word.',
        'Somewhere in your reply, use exactly this phrase: "{phrase}".',
    )
    needs = frozenset({"english", "mixed case"})
    examples = (
        Example({"phrase": "side by side"}, "They stand side by side.", "They stand side to side."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A set phrase, from level 3 on one with a rare word."""
        set_phrases = (
            "little by little", "in the long run", "more often than not", "a fresh pair of eyes",
            "hand in hand", "from time to time", "the other way round", "once in a while",
        )  # fmt: skip
        if draw.level < 3:
            return cls(phrase=draw.rng.choice(set_phrases))
        word = draw.keyword()
        article = "an" if word[0] in "aeiou" else "a"
        return cls(phrase=f"{article} {word} in the middle of nowhere")

    def check(self, reply: Reading) -> bool:
        """It stands there, case included, not inside longer words."""
        start = reply.text.find(self.phrase)
        while start >= 0:
            around = reply.text[max(0, start - 1) : start]
            around += reply.text[start + len(self.phrase) : start + len(self.phrase) + 1]
            if not any(map(str.isalnum, around)):
                return True
            start = reply.text.find(self.phrase, start + 1)
        return False

    def satisfy(self, pen: Pen) -> str:
        """Mention it."""
        return pen.add(pen.text, pen.mention(self.phrase))

    def violate(self, text: str) -> str:
        """Break it up."""
        return text.replace(self.phrase, self.phrase.replace(" ", " so to say "))
