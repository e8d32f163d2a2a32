"""Closings: how a reply ends."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import is_prose, joined, paragraphs, swap_mark
from openzaya.envs.instruct.reading import Reading, words

_CLOSINGS = (
    "That is all there is to it.", "I hope this helps.", "The rest is up to you.",
    "Thank you for reading.", "And so it goes.", "Let me know how it turns out.",
)  # fmt: skip


def _closed(text: str, closing: str) -> str:
    """Return the text with a sentence behind its last paragraph."""
    parts = paragraphs(text)
    if parts and is_prose(parts[-1]):
        return joined([*parts[:-1], f"{parts[-1]} {closing}"])
    return joined([*parts, closing])


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsWith(Constraint):
    """The reply ends with a sentence, word for word."""

    phrase: str
    rarity = 1
    wordings = (
        'End your reply with this exact sentence: "{phrase}" Nothing may follow it.',
        'The last words of your reply must be exactly "{phrase}"',
    )
    claims = frozenset({"end"})
    needs = frozenset({"english", "mixed case", "full stop"})
    turn = 9
    examples = (Example({"phrase": "So be it."}, "Yes. So be it.\n", "So be it. Yes."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A closing."""
        return cls(phrase=draw.rng.choice(_CLOSINGS))

    def check(self, reply: Reading) -> bool:
        """It stands there, letter by letter, and something comes before."""
        rest = reply.text.removesuffix(self.phrase)
        return rest != reply.text and bool(words(rest))

    def satisfy(self, pen: Pen) -> str:
        """Close with it."""
        return _closed(joined(paragraphs(pen.text.replace(self.phrase, ""))), self.phrase)

    def violate(self, text: str) -> str:
        """Put something behind it."""
        return f"{text} Goodbye."


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWord(Constraint):
    """The last word of the reply is given."""

    word: str
    rarity = 2
    wordings = (
        'The last word of your reply must be "{word}" (punctuation may follow).',
        'Make "{word}" the very last word.',
    )
    claims = frozenset({"end"})
    turn = 9
    examples = (Example({"word": "tea"}, "I like *Tea*!", "I like tea a lot."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """In any case."""
        return reply.words[-1:] == [self.word]

    def satisfy(self, pen: Pen) -> str:
        """Close with it."""
        return _closed(pen.text, f"My last word on it is {self.word}.")

    def violate(self, text: str) -> str:
        """Put another one behind."""
        return f"{text} Indeed."


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsWithQuestion(Constraint):
    """The reply ends in a question mark."""

    rarity = 2
    wordings = (
        "End your reply with a question.",
        "The last character of your reply must be a question mark.",
    )
    claims = frozenset({"end"})
    needs = frozenset({"question"})
    bans = frozenset({"full stop only"})
    turn = 9
    examples = (Example({}, "So it is. Is it not?", "Is it not? So it is."),)

    def check(self, reply: Reading) -> bool:
        """It does, and something comes before."""
        return len(reply.sentences) > 1 and reply.text.endswith("?")

    def satisfy(self, pen: Pen) -> str:
        """Ask at the end."""
        return _closed(pen.text, swap_mark(pen.sentence(), "?"))

    def violate(self, text: str) -> str:
        """State something at the end."""
        return f"{text} So it is."


@dataclass(frozen=True, slots=True, kw_only=True)
class Postscript(Constraint):
    """A postscript is the last paragraph."""

    marker: str
    rarity = 1
    wordings = (
        'Add a postscript at the end, as a paragraph of its own that starts with "{marker}".',
        'The last paragraph must be a postscript beginning with "{marker}".',
    )
    claims = frozenset({"end"})
    needs = frozenset({"full stop", "mixed case", "bare lines", "blocks"})
    turn = 9
    examples = (Example({"marker": "P.S."}, "Yes.\n\nP.S. No.", "Yes. P.S. No."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """One of two markers."""
        return cls(marker=draw.rng.choice(("P.S.", "P.P.S.")))

    def check(self, reply: Reading) -> bool:
        """It is the last of several paragraphs, and says something."""
        parts = reply.paragraphs
        if len(parts) < 2 or not parts[-1].startswith(f"{self.marker} "):
            return False
        return bool(words(parts[-1].removeprefix(self.marker)))

    def satisfy(self, pen: Pen) -> str:
        """Add it."""
        text = pen.text
        kept = [part for part in paragraphs(text) if not part.startswith(self.marker)]
        return joined([*kept, f"{self.marker} {pen.sentence()}"])

    def violate(self, text: str) -> str:
        """Write the marker without its stops."""
        return text.replace(self.marker, self.marker.replace(".", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBy(Constraint):
    """The last line is a signature."""

    signer: str
    rarity = 3
    wordings = (
        'Sign the reply: the last line must be exactly "-- {signer}".',
        'Close with a signature line that reads "-- {signer}" and nothing else.',
    )
    claims = frozenset({"end"})
    needs = frozenset({"blocks", "bare lines", "mixed case", "dash"})
    turn = 9
    examples = (Example({"signer": "Ada"}, "Yes.\n-- Ada", "Yes. -- Ada"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A first name."""
        return cls(signer=draw.rng.choice(("Ada", "Milo", "Noor", "Ines", "Tove", "Hugo")))

    def check(self, reply: Reading) -> bool:
        """It stands there, below something else."""
        return len(reply.lines) > 1 and reply.lines[-1] == f"-- {self.signer}"

    def satisfy(self, pen: Pen) -> str:
        """Sign."""
        text = pen.text
        kept = [line for line in text.split("\n") if line != f"-- {self.signer}"]
        return joined([*paragraphs("\n".join(kept)), f"-- {self.signer}"])

    def violate(self, text: str) -> str:
        """Sign with another name."""
        return text.replace(f"-- {self.signer}", "-- Nobody")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLine(Constraint):
    """The last line is one of several given lines."""

    options: tuple[str, ...]
    rarity = 2
    wordings = (
        "After your reply, add one last line that is exactly one of these: {options}.",
        "Finish with a line of its own that reads exactly as one of {options}.",
    )
    claims = frozenset({"end"})
    needs = frozenset({"english", "blocks", "bare lines", "mixed case", "full stop"})
    turn = 9
    examples = (
        Example({"options": ["I agree.", "I doubt it."]}, "So.\nI doubt it.", "So. I doubt it."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A set of verdicts."""
        return cls(options=draw.rng.choice((
            ("My answer is yes.", "My answer is no.", "My answer is maybe."),
            ("I would recommend it.", "I would not recommend it."),
            ("Worth the effort.", "Not worth the effort.", "Hard to say."),
        )))  # fmt: skip

    def check(self, reply: Reading) -> bool:
        """One of them stands there, below something else."""
        return len(reply.lines) > 1 and reply.lines[-1] in self.options

    def satisfy(self, pen: Pen) -> str:
        """Give the first verdict."""
        text = pen.text
        kept = [line for line in text.split("\n") if line not in self.options]
        return joined([*paragraphs("\n".join(kept)), self.options[0]])

    def violate(self, text: str) -> str:
        """Go on after it."""
        return f"{text} More or less."


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryLine(Constraint):
    """The last line is a short summary with a label."""

    count: int
    rarity = 2
    wordings = (
        'End with a line that starts with "Summary:" and has at most {count} words after it.',
        'The last line must begin with "Summary:" followed by no more than {count} words.',
    )
    claims = frozenset({"end"})
    needs = frozenset({"english", "blocks", "bare lines", "mixed case", "colon"})
    turn = 9
    examples = (
        Example({"count": 2}, "Yes.\nSummary: it works.", "Yes.\nSummary: it works well."),
        Example({"count": 2}, "Yes.\nSummary: yes.", "Yes.\nSummary:"),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From sixteen words down to twelve."""
        return cls(count=max(12, 16 - draw.level))

    def check(self, reply: Reading) -> bool:
        """It stands there, is short, and is not empty."""
        if len(reply.lines) < 2 or not reply.lines[-1].startswith("Summary:"):
            return False
        return 1 <= len(words(reply.lines[-1].removeprefix("Summary:"))) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Sum up in one sentence."""
        text = pen.text
        kept = [part for part in paragraphs(text) if not part.startswith("Summary:")]
        return joined([*kept, f"Summary: {pen.sentence()}"])

    def violate(self, text: str) -> str:
        """Lengthen it."""
        return text.rstrip() + " And so on." * self.count
