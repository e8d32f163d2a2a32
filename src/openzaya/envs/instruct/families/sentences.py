"""Sentences: how many there are and how long they are."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import NEUTRAL, Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import MAX_EDITS, grown, joined, map_prose, paragraphs, shrunk
from openzaya.envs.instruct.reading import Reading, split_sentences, words


def _count(sentence: str) -> int:
    return len(words(sentence))


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencesAtLeast(Constraint):
    """At least so many sentences."""

    count: int
    rarity = 1
    wordings = (
        "Write at least {count} sentences.",
        "Your reply should contain {count} or more sentences.",
    )
    claims = frozenset({"sentences"})
    needs = NEUTRAL
    turn = 6
    examples = (
        Example({"count": 2}, "It works. Really!", "It works, e.g. at 3.5 degrees."),
        Example({"count": 2}, "He left (why?) again. Dr. Lee knows.", "Dr. Lee knows."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From five up to about fifteen."""
        return cls(count=draw.rng.randint(5, 8) + min(draw.level, 8))

    def check(self, reply: Reading) -> bool:
        """Enough of them."""
        return len(reply.sentences) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences."""
        return grown(pen, self.check)

    def violate(self, text: str) -> str:
        """Make one long sentence of it."""
        return "and ".join(Reading(text).words)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencesAtMost(Constraint):
    """At most so many sentences."""

    count: int
    rarity = 1
    wordings = (
        "Write at most {count} sentences.",
        "Use no more than {count} sentences in total.",
    )
    claims = frozenset({"sentences"})
    needs = NEUTRAL
    bans = frozenset({"long reply", "blocks"})
    turn = 6
    examples = (Example({"count": 1}, "One sentence, no more", "One sentence. Two."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From eleven down to six."""
        return cls(count=max(6, draw.rng.randint(9, 11) - draw.level // 2))

    def check(self, reply: Reading) -> bool:
        """Not too many of them."""
        return len(reply.sentences) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Drop sentences."""
        return shrunk(pen, self.check)

    def violate(self, text: str) -> str:
        """Add too many."""
        return f"{text}\n\n{'It goes on. ' * (self.count + 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencesExactly(Constraint):
    """Exactly so many sentences."""

    count: int
    rarity = 2
    wordings = (
        "Write exactly {count} sentences.",
        "Your reply must consist of {count} sentences, no more and no less.",
    )
    claims = frozenset({"sentences"})
    needs = NEUTRAL
    bans = frozenset({"long reply", "blocks"})
    turn = 6
    examples = (Example({"count": 2}, "One? Two!", "One, i.e. one. Two. Three."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Five to twelve."""
        return cls(count=draw.rng.randint(5, 8) + min(draw.level // 2, 4))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return len(reply.sentences) == self.count

    def satisfy(self, pen: Pen) -> str:
        """Add or drop sentences."""
        text = pen.text
        for _ in range(MAX_EDITS):
            have = len(Reading(text).sentences)
            if have == self.count:
                break
            text = pen.add(text, pen.sentence()) if have < self.count else pen.drop(text)
        return text

    def violate(self, text: str) -> str:
        """Add one."""
        return f"{text}\n\nThat is one more."


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceWordsAtMost(Constraint):
    """No sentence is longer than so many words."""

    count: int
    rarity = 2
    wordings = (
        "No sentence may have more than {count} words.",
        "Keep every sentence to {count} words or fewer.",
    )
    claims = frozenset({"sentence length"})
    bans = frozenset({"unpunctuated"})
    turn = 6
    examples = (Example({"count": 3}, "One two three. Four.", "One two three four. Five."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From eighteen words down to ten."""
        return cls(count=max(10, draw.rng.randint(15, 18) - draw.level // 2))

    def check(self, reply: Reading) -> bool:
        """All are short enough, and there are some."""
        return bool(reply.sentences) and all(_count(s) <= self.count for s in reply.sentences)

    def allows(self, sentence: str) -> bool:
        """Only short ones."""
        return _count(sentence) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Cut the long ones in two."""
        text = pen.text

        def halve(said: list[str]) -> list[str]:
            short = []
            for sentence in said:
                tokens = sentence.split()
                for start in range(0, len(tokens), self.count):
                    part = " ".join(tokens[start : start + self.count]).rstrip(",;:")
                    short.append(part if part[-1] in ".!?" else f"{part}.")
            return short

        return map_prose(text, halve)

    def violate(self, text: str) -> str:
        """Add a long one."""
        return f"{text}\n\n{'On and ' * self.count}on."


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceWordsAtLeast(Constraint):
    """No sentence is shorter than so many words."""

    count: int
    rarity = 3
    wordings = (
        "Every sentence must have at least {count} words.",
        "Do not write any sentence of fewer than {count} words.",
    )
    claims = frozenset({"sentence length", "list", "start", "end"})
    bans = frozenset({"blocks"})
    turn = 6
    examples = (Example({"count": 3}, "One two three. Four five six!", "One two three. Four."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Five words, then up to seven."""
        return cls(count=5 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """All are long enough, and there are some."""
        return bool(reply.sentences) and all(_count(s) >= self.count for s in reply.sentences)

    def allows(self, sentence: str) -> bool:
        """Only long ones."""
        return _count(sentence) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Put new sentences in the place of short ones."""
        text = pen.text
        return map_prose(
            text, lambda said: [s if _count(s) >= self.count else pen.sentence() for s in said]
        )

    def violate(self, text: str) -> str:
        """Add a short one."""
        return f"{text}\n\nDone."


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSentenceAtMost(Constraint):
    """The first sentence is short."""

    count: int
    rarity = 2
    wordings = (
        "Your first sentence must have at most {count} words.",
        "Open with a sentence of {count} words or fewer.",
    )
    claims = frozenset({"start"})
    turn = 7
    examples = (Example({"count": 2}, "So there! It goes on like this.", "It goes on. So there."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Eight words, later six."""
        return cls(count=8 if draw.level < 4 else 6)

    def check(self, reply: Reading) -> bool:
        """It is short enough, and there is more than one."""
        return len(reply.sentences) > 1 and _count(reply.sentences[0]) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Begin with a short one."""
        text = pen.text
        opening = f"A word on the {pen.topic.nouns[0]} first."
        return joined([f"{opening} {part}" if not i else part
                       for i, part in enumerate(paragraphs(text))])  # fmt: skip

    def violate(self, text: str) -> str:
        """Begin with a long one."""
        return f"{'On and ' * self.count}on. {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceContrast(Constraint):
    """The longest sentence has several times as many words as the shortest."""

    times: int
    rarity = 3
    wordings = (
        "Your longest sentence must have at least {times} times as many words as your shortest.",
        "Vary the rhythm: one sentence should be at least {times} times as long as another.",
    )
    claims = frozenset({"sentence length"})
    bans = frozenset({"blocks"})
    turn = 8
    examples = (
        Example({"times": 2}, "Go on. Now we all go home.", "We go on here. Now we go home."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three times, later four or five."""
        return cls(times=3 + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """The extremes are far enough apart."""
        sizes = [_count(sentence) for sentence in reply.sentences]
        return len(sizes) > 1 and max(sizes) >= self.times * min(sizes)

    def satisfy(self, pen: Pen) -> str:
        """Add a sentence of two words and one that is long enough for it."""
        text = pen.text
        text = pen.add(text, "So be it.")
        if self.check(Reading(text)):
            return text
        long = " and ".join(pen.sentence().rstrip(".").lower() for _ in range(2))
        return pen.add(text, f"{long[:1].upper()}{long[1:]}.")

    def violate(self, text: str) -> str:
        """Make all sentences the same length."""
        return "Four words in all. " * len(split_sentences(text))
