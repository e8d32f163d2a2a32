"""Forbidden characters: marks and digits that must not occur."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import NEUTRAL, Constraint, Draw, Example, Pen
from openzaya.envs.instruct.reading import Reading

_APOSTROPHES = ("'", "\u2019")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCommas(Constraint):
    """No commas."""

    rarity = 1
    wordings = (
        "Do not use any commas.",
        "Your whole reply must be free of commas.",
        "Refrain from using commas.",
    )
    needs = NEUTRAL
    bans = frozenset({"comma"})
    turn = 10
    examples = (Example({}, "One two; three.", "One, two."),)

    def check(self, reply: Reading) -> bool:
        """None, full-width or Arabic ones included."""
        return bool(reply.text) and not set(",\uff0c\u3001\u060c") & set(reply.text)

    def satisfy(self, pen: Pen) -> str:
        """Take them out."""
        return pen.text.replace(",", "")

    def violate(self, text: str) -> str:
        """Add one."""
        return f"{text}, yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMark(Constraint):
    """A punctuation mark does not occur."""

    mark: str
    rarity = 1
    wordings = (
        'Do not use the character "{mark}".',
        'The character "{mark}" must not appear anywhere in your reply.',
    )
    needs = NEUTRAL
    bans = frozenset({"exclamation", "semicolon", "colon"})
    turn = 10
    examples = (Example({"mark": "!"}, "Stop.", "Stop!"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """One of the marks that can be spared."""
        return cls(mark=draw.rng.choice("!;:"))

    def check(self, reply: Reading) -> bool:
        """It is not there."""
        return bool(reply.text) and self.mark not in reply.text

    def satisfy(self, pen: Pen) -> str:
        """Put a full stop in its place."""
        return pen.text.replace(self.mark, ".")

    def violate(self, text: str) -> str:
        """Write it once."""
        return f"{text}{self.mark}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFullStops(Constraint):
    """No full stops: sentences end in other marks."""

    rarity = 3
    wordings = (
        "Do not use any full stops; end your sentences with other marks.",
        "No period (.) may appear in your reply; use ! or ? to end sentences.",
    )
    claims = frozenset({"full stop", "end", "sentences"})
    bans = frozenset({"full stop", "ellipsis", "blocks"})
    needs = frozenset({"english", "exclamation"})
    turn = 11
    examples = (Example({}, "Stop! Why?", "Stop."),)

    def check(self, reply: Reading) -> bool:
        """None, the ellipsis character included."""
        return bool(reply.text) and not set(".\u2026\u3002") & set(reply.text)

    def satisfy(self, pen: Pen) -> str:
        """End in exclamation marks."""
        return re.sub(r"\.+", "!", pen.text)

    def violate(self, text: str) -> str:
        """Write one."""
        return f"{text}."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoApostrophes(Constraint):
    """No contractions or possessives: no apostrophe at all."""

    rarity = 2
    wordings = (
        "Do not use contractions or any other word with an apostrophe.",
        "Avoid every apostrophe: write \"do not\" rather than the short form.",
    )  # fmt: skip
    bans = frozenset({"apostrophe"})
    turn = 10
    examples = (Example({}, "I do not know.", "I don't know."), Example({}, "No.", "Ada\u2019s."))

    def check(self, reply: Reading) -> bool:
        """Neither the straight nor the curly one."""
        return bool(reply.text) and not any(mark in reply.text for mark in _APOSTROPHES)

    def satisfy(self, pen: Pen) -> str:
        """Take them out."""
        return pen.text.replace("'", "").replace("\u2019", "")

    def violate(self, text: str) -> str:
        """Contract something."""
        return f"{text} That's it."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDigits(Constraint):
    """No digits: numbers are spelled out."""

    rarity = 2
    wordings = (
        "Do not use any digits; spell out all numbers.",
        "No digit (0 to 9) may appear in your reply.",
    )
    needs = NEUTRAL
    bans = frozenset({"digit"})
    turn = 10
    examples = (Example({}, "Two times.", "2 times."),)

    def check(self, reply: Reading) -> bool:
        """None in any script."""
        return bool(reply.text) and not any(map(str.isdigit, set(reply.text)))

    def satisfy(self, pen: Pen) -> str:
        """Take them out."""
        return re.sub(r"\d", "", pen.text)

    def violate(self, text: str) -> str:
        """Write one."""
        return f"{text} Well, 3 times."
