"""Length: how many words, characters and lines a reply has."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import NEUTRAL, Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import MAX_EDITS, grown, shrunk
from openzaya.envs.instruct.reading import Reading, words


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsAtLeast(Constraint):
    """At least so many words."""

    count: int
    rarity = 1
    wordings = (
        "Write at least {count} words.",
        "Your reply should have {count} words or more.",
        "Use no fewer than {count} words.",
    )
    claims = frozenset({"words"})
    needs = frozenset({"english", "long reply"})
    turn = 7
    examples = (Example({"count": 3}, "One, two, three.", "One two."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From 50 words up to about 250."""
        return cls(count=draw.rng.randrange(50, 100, 5) + 15 * min(draw.level, 10))

    def check(self, reply: Reading) -> bool:
        """Enough words."""
        return len(reply.words) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences."""
        return grown(pen, self.check)

    def violate(self, text: str) -> str:
        """Keep too few words."""
        return " ".join(Reading(text).words[: self.count - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsAtMost(Constraint):
    """At most so many words."""

    count: int
    rarity = 1
    wordings = (
        "Write at most {count} words.",
        "Keep your reply to {count} words or fewer.",
        "Do not use more than {count} words.",
    )
    claims = frozenset({"words"})
    bans = frozenset({"long reply"})
    turn = 7
    examples = (Example({"count": 3}, "One, two, three.", "One two three four."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From about 120 words down to 45."""
        return cls(count=max(45, draw.rng.randrange(80, 125, 5) - 8 * draw.level))

    def check(self, reply: Reading) -> bool:
        """Not too many words."""
        return len(reply.words) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Drop sentences."""
        return shrunk(pen, self.check)

    def violate(self, text: str) -> str:
        """Say it again until it is too long."""
        return f"{text}\n{'so ' * self.count}on"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsMultiple(Constraint):
    """The number of words is a multiple of a small number."""

    factor: int
    rarity = 3
    wordings = (
        "The total number of words must be a multiple of {factor} (hyphenated words count as one).",
        "Make the number of words in your reply divisible by {factor}; a hyphenated word is one.",
    )
    claims = frozenset({"words"})
    turn = 9
    examples = (Example({"factor": 2}, "One well-known two three.", "One two three."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Multiples of three or four, then of five to seven."""
        return cls(factor=draw.rng.choice((3, 4) if draw.level < 4 else (5, 6, 7)))

    def check(self, reply: Reading) -> bool:
        """No remainder, and not zero."""
        return bool(reply.words) and len(reply.words) % self.factor == 0

    def satisfy(self, pen: Pen) -> str:
        """Add or drop the sentence that makes the number fit, or any when none does."""
        text = pen.text
        offers = [pen.sentence() for _ in range(4 * self.factor)]
        over = len(Reading(text).words)
        fitting = [said for said in offers if (over + len(words(said))) % self.factor == 0]
        return pen.add(text, (fitting or offers)[0])

    def violate(self, text: str) -> str:
        """Add one word."""
        return f"{text}\nword"


@dataclass(frozen=True, slots=True, kw_only=True)
class CharactersAtMost(Constraint):
    """At most so many characters."""

    count: int
    rarity = 2
    wordings = (
        "Your whole reply may have at most {count} characters, spaces included.",
        "Keep it within {count} characters, counting spaces.",
    )
    claims = frozenset({"words"})
    needs = NEUTRAL
    bans = frozenset({"long reply"})
    turn = 7
    examples = (Example({"count": 5}, "  12345 \n", "123456"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From about 700 down to 300."""
        return cls(count=max(300, draw.rng.randrange(500, 701, 50) - 30 * draw.level))

    def check(self, reply: Reading) -> bool:
        """Short enough, outer whitespace aside."""
        return len(reply.text) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Drop sentences."""
        return shrunk(pen, self.check)

    def violate(self, text: str) -> str:
        """Say it again until it is too long."""
        return f"{text}\n{'so ' * self.count}on"


@dataclass(frozen=True, slots=True, kw_only=True)
class CharactersAtLeast(Constraint):
    """At least so many characters."""

    count: int
    rarity = 2
    wordings = (
        "Your reply must have at least {count} characters, spaces included.",
        "Write {count} characters or more, counting spaces.",
    )
    claims = frozenset({"words"})
    needs = frozenset({"long reply"})
    turn = 7
    examples = (Example({"count": 5}, "12345", "1234   \n"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From 250 up to about 900."""
        return cls(count=draw.rng.randrange(250, 451, 50) + 50 * min(draw.level, 9))

    def check(self, reply: Reading) -> bool:
        """Long enough, outer whitespace aside."""
        return len(reply.text) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences."""
        return grown(pen, self.check)

    def violate(self, text: str) -> str:
        """Cut it short."""
        return text.strip()[: self.count - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesExactly(Constraint):
    """Exactly so many lines that are not blank."""

    count: int
    rarity = 2
    wordings = (
        "Write exactly {count} lines of text; blank lines do not count.",
        "Lay the reply out as exactly {count} non-empty lines.",
    )
    claims = frozenset({"paragraphs", "lines"})
    needs = NEUTRAL
    turn = 8
    examples = (Example({"count": 2}, "One\n\n\nTwo", "One\nTwo\nThree"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to eight lines."""
        return cls(count=draw.rng.randint(3, 5) + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return len(reply.lines) == self.count

    def satisfy(self, pen: Pen) -> str:
        """Add paragraphs of one line, or put two into one."""
        text = pen.text
        for _ in range(MAX_EDITS):
            have = len(Reading(text).lines)
            if have == self.count:
                break
            text = pen.block(text, pen.sentence()) if have < self.count else _merge(text, pen)
        return text

    def violate(self, text: str) -> str:
        """Add a line."""
        return f"{text}\nThat is one more line."


def _merge(text: str, pen: Pen) -> str:
    """Put two neighboring lines into one, where it breaks least."""
    lines = Reading(text).lines
    return pen.best(
        ["\n\n".join([*lines[:i], f"{lines[i]} {lines[i + 1]}", *lines[i + 2 :]])
         for i in range(len(lines) - 1)] or [text]
    )  # fmt: skip
