"""Openings: how a reply begins."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import is_prose, joined, paragraphs, swap_mark
from openzaya.envs.instruct.reading import Reading, words

_OPENINGS = (
    "Let us begin at the beginning", "Here is what I can tell you", "To put it simply",
    "There is a good deal to say", "You have come to the right place", "In short",
)  # fmt: skip


def _opened(text: str, opening: str) -> str:
    """Return the text with a sentence in front of its first paragraph."""
    parts = paragraphs(text)
    if parts and is_prose(parts[0]):
        return joined([f"{opening} {parts[0]}", *parts[1:]])
    return joined([opening, *parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsWith(Constraint):
    """The reply begins with a phrase."""

    phrase: str
    rarity = 1
    wordings = (
        'Start your reply with the words "{phrase}".',
        'The very first words of your reply must be "{phrase}".',
    )
    claims = frozenset({"start"})
    needs = frozenset({"english", "mixed case"})
    turn = 9
    examples = (Example({"phrase": "In short"}, "\nIn short, no.", "in short, no."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """An opening."""
        return cls(phrase=draw.rng.choice(_OPENINGS))

    def check(self, reply: Reading) -> bool:
        """It stands there, letter by letter, and more follows."""
        rest = reply.text.removeprefix(self.phrase)
        return rest != reply.text and bool(words(rest)) and not rest[0].isalnum()

    def satisfy(self, pen: Pen) -> str:
        """Open with it."""
        return _opened(pen.text, f"{self.phrase} about the {pen.topic.nouns[1]} and more.")

    def violate(self, text: str) -> str:
        """Put something in front of it."""
        return f"Well. {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstWord(Constraint):
    """The first word of the reply is given."""

    word: str
    rarity = 2
    wordings = (
        'The first word of your reply must be "{word}".',
        'Make "{word}" the very first word.',
    )
    claims = frozenset({"start"})
    turn = 9
    examples = (Example({"word": "tea"}, "*Tea* is good.", "A tea is good."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """In any case."""
        return reply.words[:1] == [self.word]

    def satisfy(self, pen: Pen) -> str:
        """Open with it."""
        return _opened(pen.text, f"{self.word.capitalize()} is the word that comes first.")

    def violate(self, text: str) -> str:
        """Put another one in front."""
        return f"Well, {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpensWithQuestion(Constraint):
    """The first sentence is a question."""

    rarity = 2
    wordings = (
        "Begin with a question: your first sentence must end with a question mark.",
        "Your opening sentence should be a question.",
    )
    claims = frozenset({"start"})
    needs = frozenset({"question"})
    bans = frozenset({"full stop only"})
    turn = 9
    examples = (Example({}, "Why? Because.", "Because. Why?"),)

    def check(self, reply: Reading) -> bool:
        """It is, and more follows."""
        said = reply.sentences
        return len(said) > 1 and said[0].rstrip("\"'*_)\u201d\u2019").endswith("?")

    def satisfy(self, pen: Pen) -> str:
        """Ask first."""
        return _opened(pen.text, swap_mark(pen.sentence(), "?"))

    def violate(self, text: str) -> str:
        """State something first."""
        return f"This is a statement. {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting(Constraint):
    """The first line is a salutation."""

    person: str
    rarity = 2
    wordings = (
        'Open like a letter: the first line must be exactly "Dear {person},".',
        'Begin with the line "Dear {person}," and nothing else on that line.',
    )
    claims = frozenset({"start"})
    needs = frozenset({"english", "blocks", "bare lines", "mixed case", "comma"})
    turn = 9
    examples = (Example({"person": "Ada"}, "Dear Ada,\n\nYes.", "Dear Ada, yes.\n\nYes."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A first name."""
        return cls(person=draw.rng.choice(("Ada", "Milo", "Noor", "Ines", "reader", "friend")))

    def check(self, reply: Reading) -> bool:
        """It stands there, above something else."""
        return len(reply.lines) > 1 and reply.lines[0] == f"Dear {self.person},"

    def satisfy(self, pen: Pen) -> str:
        """Greet."""
        return f"Dear {self.person},\n\n{pen.text}"

    def violate(self, text: str) -> str:
        """Go on in the same line."""
        return text.replace(f"Dear {self.person},\n", f"Dear {self.person}, hello.\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class TldrFirst(Constraint):
    """The first line gives the gist."""

    rarity = 2
    wordings = (
        'Begin with a line that starts with "TL;DR:" and sums up the reply.',
        'The first line must start with "TL;DR:" and say the gist; the rest follows below.',
    )
    claims = frozenset({"start"})
    needs = frozenset({"blocks", "bare lines", "mixed case", "colon", "semicolon"})
    turn = 9
    examples = (Example({}, "TL;DR: yes.\n\nLong story.", "TL;DR:\n\nLong story."),)

    def check(self, reply: Reading) -> bool:
        """It stands there, says something, and more follows."""
        if len(reply.lines) < 2 or not reply.lines[0].startswith("TL;DR:"):
            return False
        return bool(words(reply.lines[0].removeprefix("TL;DR:")))

    def satisfy(self, pen: Pen) -> str:
        """Put it on top."""
        return f"TL;DR: {pen.sentence()}\n\n{pen.text}"

    def violate(self, text: str) -> str:
        """Forget the semicolon."""
        return text.replace("TL;DR", "TLDR")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatRequest(Constraint):
    """The reply first repeats the task's first sentence."""

    request: str
    rarity = 2
    wordings = (
        "First repeat the first sentence of this task word for word, then give your reply.",
        "Before you reply, copy the first sentence of this task exactly as it stands.",
    )
    claims = frozenset({"start", "paragraph start"})
    needs = frozenset({"english", "mixed case", "full stop"})
    bans = frozenset({"short reply"})
    turn = 9
    examples = (
        Example({"request": "Say why."}, "Say why. Because.", "Say why? Because."),
        Example({"request": "Say why."}, "Say why.\n\nBecause.", "Say why."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """The request of the topic."""
        return cls(request=draw.topic.request)

    def check(self, reply: Reading) -> bool:
        """It stands at the start and something follows."""
        rest = reply.text.removeprefix(self.request)
        return rest != reply.text and bool(words(rest))

    def satisfy(self, pen: Pen) -> str:
        """Put it in front."""
        return _opened(pen.text, self.request)

    def violate(self, text: str) -> str:
        """Change its end."""
        return text.replace(self.request, swap_mark(self.request, "!"))
