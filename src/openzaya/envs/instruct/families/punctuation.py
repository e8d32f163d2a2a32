"""Punctuation: marks that must occur, and how often."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import map_prose, swap_mark
from openzaya.envs.instruct.reading import Reading, words

_ASIDE = re.compile(r"\(([^()\n]*)\)")
_QUOTATION = re.compile('"([^"\n]*)"|\u201c([^\u201c\u201d\n]*)\u201d')
_DASH = re.compile(r"(?<=[^\W_] )(?:--|[\u2013\u2014])(?= [^\W_])")
_ELLIPSIS = re.compile(r"(?<=[^\W_])(?:\.\.\.(?!\.)|\u2026)")


def _insert(text: str, pen: Pen, put: tuple[str, str]) -> str:
    """Add a sentence with something put before and after its last word."""
    said = pen.sentence().rstrip(".")
    head, _, last = said.rpartition(" ")
    return pen.add(text, f"{head} {put[0]}{last}{put[1]}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommasAtLeast(Constraint):
    """At least so many commas."""

    count: int
    rarity = 2
    wordings = (
        "Use at least {count} commas.",
        "Your reply should contain {count} commas or more.",
    )
    needs = frozenset({"english", "comma"})
    turn = 7
    examples = (Example({"count": 2}, "Red, green, blue.", "Red, green and blue."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to ten."""
        return cls(count=draw.rng.randint(3, 5) + min(draw.level // 2, 5))

    def check(self, reply: Reading) -> bool:
        """Enough of them, each after a word."""
        return len(re.findall(r"(?<=[^\W_]),", reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Put commas into sentences that have none."""
        text = pen.text

        def pause(said: list[str]) -> list[str]:
            return [re.sub(r"(?<=\w) (?=the |is |to )", ", ", one, count=1) for one in said]

        return map_prose(pen.add(text, pen.sentence()), pause)

    def violate(self, text: str) -> str:
        """Take all out."""
        return text.replace(",", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionsExactly(Constraint):
    """Exactly so many question marks."""

    count: int
    rarity = 2
    wordings = (
        "Use exactly {count} question marks.",
        "There must be {count} question marks in your reply, no more and no fewer.",
    )
    claims = frozenset({"questions", "start", "end"})
    needs = frozenset({"question"})
    turn = 7
    examples = (Example({"count": 2}, "Why? Who?", "Why? Who? Where?"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """One or two, later up to four."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 5, 1))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return reply.text.count("?") == self.count

    def satisfy(self, pen: Pen) -> str:
        """Turn all into statements, then ask so many."""
        text = pen.text
        text = text.replace("?", ".")
        for _ in range(self.count):
            text = pen.add(text, swap_mark(pen.sentence(), "?"))
        return text

    def violate(self, text: str) -> str:
        """Ask once more."""
        return f"{text} Why?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExclamationsExactly(Constraint):
    """Exactly so many exclamation marks."""

    count: int
    rarity = 2
    wordings = (
        "Use exactly {count} exclamation marks.",
        "There must be {count} exclamation marks, no more and no fewer.",
    )
    claims = frozenset({"full stop"})
    needs = frozenset({"exclamation"})
    turn = 7
    examples = (Example({"count": 2}, "Oh! No!", "Oh! No."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two or three, later four."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 5, 1))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return reply.text.count("!") == self.count

    def satisfy(self, pen: Pen) -> str:
        """Turn all into statements, then exclaim so often."""
        text = pen.text
        text = text.replace("!", ".")
        for _ in range(self.count):
            text = pen.add(text, swap_mark(pen.sentence(), "!"))
        return text

    def violate(self, text: str) -> str:
        """Exclaim once more."""
        return f"{text} Oh!"


@dataclass(frozen=True, slots=True, kw_only=True)
class SemicolonsAtLeast(Constraint):
    """At least so many semicolons between words."""

    count: int
    rarity = 3
    wordings = (
        "Use at least {count} semicolons to join clauses.",
        "Your reply must contain {count} semicolons or more, each right after a word.",
    )
    needs = frozenset({"english", "semicolon"})
    claims = frozenset({"semicolons"})
    bans = frozenset({"few words"})
    turn = 7
    examples = (Example({"count": 2}, "It came; I saw; we went.", "It came; ;;; I saw."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two, later up to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, each after a word and before a space."""
        return len(re.findall(r"(?<=[^\W_]);(?= [^\W_])", reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences that have one."""
        text = pen.text
        for _ in range(self.count):
            said = pen.sentence()
            text = pen.add(text, re.sub(r" (?=the )", "; ", said, count=1))
        return text

    def violate(self, text: str) -> str:
        """Put full stops in their place."""
        return text.replace(";", ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class AsidesAtLeast(Constraint):
    """At least so many asides in round brackets."""

    count: int
    rarity = 2
    wordings = (
        "Include at least {count} asides in parentheses (like this).",
        "Put {count} or more remarks in round brackets.",
    )
    needs = frozenset({"parenthesis"})
    turn = 7
    examples = (Example({"count": 2}, "So (yes) it is (no).", "So (yes) it is ()."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two, later up to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, each with a word inside."""
        return sum(bool(words(inside)) for inside in _ASIDE.findall(reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences that have one."""
        text = pen.text
        for _ in range(self.count):
            text = _insert(text, pen, ("(", ")"))
        return text

    def violate(self, text: str) -> str:
        """Take the brackets out."""
        return text.replace("(", "").replace(")", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotationsAtLeast(Constraint):
    """At least so many passages in double quotation marks."""

    count: int
    rarity = 2
    wordings = (
        'Put at least {count} words or passages in double quotation marks ("like this").',
        "Use {count} or more quotations in double quotation marks.",
    )
    claims = frozenset({"whole"})
    needs = frozenset({"quote"})
    turn = 7
    examples = (Example({"count": 2}, 'A "yes" and a \u201cno\u201d.', 'A "yes" and "".'),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two, later up to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, each with a word inside and on one line."""
        found = _QUOTATION.findall(reply.text)
        return sum(bool(words(one or other)) for one, other in found) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences that have one."""
        text = pen.text
        for _ in range(self.count):
            text = _insert(text, pen, ('"', '"'))
        return text

    def violate(self, text: str) -> str:
        """Take the marks out."""
        return re.sub('["\u201c\u201d]', "", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class DashesAtLeast(Constraint):
    """At least so many dashes between words."""

    count: int
    rarity = 3
    wordings = (
        'Use at least {count} dashes with spaces around them ("like -- this").',
        "Your reply must contain {count} or more dashes (-- or a long dash) between two words, with"
        " a space on each side.",
    )
    needs = frozenset({"dash"})
    turn = 7
    examples = (Example({"count": 2}, "So -- yes \u2014 no.", "So -- yes--no - well."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two, later up to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them."""
        return len(_DASH.findall(reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences that have one."""
        text = pen.text
        for _ in range(self.count):
            text = _insert(text, pen, ("-- ", ""))
        return text

    def violate(self, text: str) -> str:
        """Put commas in their place."""
        return _DASH.sub(",", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class EllipsesAtLeast(Constraint):
    """At least so many ellipses after words."""

    count: int
    rarity = 3
    wordings = (
        "Use an ellipsis (...) right after a word at least {count} times.",
        "Let your voice trail off with ... at least {count} times.",
    )
    needs = frozenset({"ellipsis"})
    claims = frozenset({"full stop"})
    turn = 7
    examples = (Example({"count": 2}, "Well... so\u2026", "Well... so...."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two, later three."""
        return cls(count=2 + min(draw.level // 4, 1))

    def check(self, reply: Reading) -> bool:
        """Enough of them, of exactly three dots."""
        return len(_ELLIPSIS.findall(reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences that end so."""
        text = pen.text
        for _ in range(self.count):
            text = pen.add(text, swap_mark(pen.sentence(), "..."))
        return text

    def violate(self, text: str) -> str:
        """End in one dot."""
        return _ELLIPSIS.sub(".", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColonsAtLeast(Constraint):
    """At least so many colons between words."""

    count: int
    rarity = 3
    wordings = (
        "Use at least {count} colons, each right after a word and followed by a space.",
        "Introduce something with a colon at least {count} times.",
    )
    needs = frozenset({"english", "colon"})
    turn = 7
    examples = (Example({"count": 2}, "Note: one. Also: two.", "Note: one at 2:30."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two, later up to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, each between a word and a space."""
        return len(re.findall(r"(?<=[^\W_]):(?= )", reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add sentences that have one."""
        text = pen.text
        for _ in range(self.count):
            said = pen.sentence()
            text = pen.add(text, re.sub(r" (?=the )", ": ", said, count=1))
        return text

    def violate(self, text: str) -> str:
        """Put commas in their place."""
        return text.replace(":", ",")
