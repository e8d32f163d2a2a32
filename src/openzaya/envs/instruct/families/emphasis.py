"""Emphasis: highlights, bold words, inline code, placeholders, or no markdown at all."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined, paragraphs, swap_word
from openzaya.envs.instruct.reading import Reading, unmarked, words

_SINGLE_STARS = re.compile(r"(?<![*\\])\*(?![*\s])([^*\n]+)(?<!\s)\*(?!\*)")
_DOUBLE_STARS = re.compile(r"(?<!\*)\*\*(?![*\s])([^*\n]+)(?<!\s)\*\*(?!\*)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_PLACEHOLDER = re.compile(r"\[[A-Za-z][A-Za-z _-]*\]")
_MARKDOWN = re.compile(
    r"^[ \t]*(?:#{1,6}[ ]|[-*+][ ]|[0-9]{1,3}[.)][ ]|>|\||```|---|\*\*\*)|\*\*|__|`", re.MULTILINE
)
_EMPHASIS = ("truly", "always", "often", "rarely", "never", "slowly", "calmly", "gladly")


def _count(pattern: re.Pattern[str], text: str) -> int:
    """Return how many matches of the pattern have a word in their last group, or as a whole."""
    found = pattern.finditer(text)
    return sum(bool(words(match[match.lastindex or 0])) for match in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class HighlightsAtLeast(Constraint):
    """At least so many passages in single asterisks."""

    count: int
    rarity = 1
    wordings = (
        "Highlight at least {count} passages with single asterisks, as in *highlighted*.",
        "Put {count} or more words or phrases in *italics* with single asterisks.",
    )
    needs = frozenset({"english", "markdown", "asterisk"})
    turn = 4
    examples = (Example({"count": 2}, "*One* and *two three*.", "**One** and *two*."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to five."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, each with a word inside."""
        text = "\n".join(map(unmarked, reply.lines))
        return _count(_SINGLE_STARS, text) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Add highlighted mentions."""
        text = pen.text
        for word in _EMPHASIS[: self.count]:
            text = pen.add(text, pen.mention(f"*{word}*"))
        return text

    def violate(self, text: str) -> str:
        """Take the asterisks out."""
        return text.replace("*", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoldWord(Constraint):
    """A word is in bold wherever it occurs, and it occurs."""

    word: str
    rarity = 2
    wordings = (
        'Use the word "{word}" and set it in bold with double asterisks (**{word}**) every time.',
        'Whenever you write "{word}", make it bold: **{word}**. Use it at least once.',
    )
    needs = frozenset({"english", "markdown", "asterisk"})
    turn = 10
    examples = (
        Example({"word": "tea"}, "Some **tea**, **Tea**!", "Some **tea**, tea!"),
        Example({"word": "tea"}, "My **tea**.", "My teapot."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """As often in bold as at all."""
        bold = [match[1].lower() for match in _DOUBLE_STARS.finditer(reply.text)]
        return reply.counts[self.word] == bold.count(self.word) >= 1

    def satisfy(self, pen: Pen) -> str:
        """Mention it, in bold everywhere."""
        text = pen.text
        text = swap_word(text.replace(f"**{self.word}**", self.word), self.word, self.word)
        if self.word not in Reading(text).counts:
            text = pen.add(text, pen.mention(self.word))
        return swap_word(text, self.word, f"**{self.word}**")

    def violate(self, text: str) -> str:
        """Say it once in plain type."""
        return f"{text}\n{self.word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineCode(Constraint):
    """A word stands in backticks at least so often."""

    word: str
    count: int
    rarity = 3
    wordings = (
        "Write the word `{word}` in backticks at least {count} times.",
        "At least {count} times, mention `{word}` as inline code, that is between backticks.",
    )
    needs = frozenset({"english", "markdown", "mixed case"})
    examples = (Example({"word": "tea", "count": 2}, "`tea` or `tea`", "`tea` or tea"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Twice, later more often."""
        return cls(word=draw.keyword(), count=2 + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """Often enough, exactly so written."""
        return [match[1] for match in _CODE.finditer(reply.text)].count(self.word) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention it in backticks."""
        text = pen.text
        for _ in range(self.count):
            text = pen.add(text, pen.mention(f"`{self.word}`"))
        return text

    def violate(self, text: str) -> str:
        """Take the backticks out."""
        return text.replace("`", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholdersAtLeast(Constraint):
    """At least so many different placeholders in square brackets."""

    count: int
    rarity = 1
    wordings = (
        "Leave at least {count} different placeholders in square brackets, such as [address].",
        "Use {count} or more different placeholders for the user to fill in, like [name].",
    )
    needs = frozenset({"english", "bracket"})
    turn = 4
    examples = (Example({"count": 2}, "Dear [Name], on [date]", "[name] and [name] and [2]"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them; a checkbox is none."""
        found = {match.lower() for match in _PLACEHOLDER.findall(reply.text)}
        return len(found - {"[x]"}) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention placeholders."""
        text = pen.text
        for name in ("name", "date", "place", "your city")[: self.count]:
            if f"[{name}]" not in text.lower():
                text = pen.add(text, pen.mention(f"[{name}]"))
        return text

    def violate(self, text: str) -> str:
        """Fill them in."""
        return text.replace("[", "").replace("]", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMarkdown(Constraint):
    """Plain text: no headings, lists, quotes, tables, bold or code."""

    rarity = 2
    wordings = (
        "Use plain text only: no markdown headings, lists, quotes, tables, bold or code.",
        "Do not use any markdown markup such as #, list markers, >, |, ** or backticks.",
    )
    needs = frozenset[str]()
    bans = frozenset({"markdown"})
    turn = 9
    examples = (Example({}, "Plain text - indeed.", "Not **plain**."),)

    def check(self, reply: Reading) -> bool:
        """None of the signs."""
        return bool(reply.text) and _MARKDOWN.search(reply.text) is None

    def satisfy(self, pen: Pen) -> str:
        """Take the signs out."""
        return joined([unmarked(part) for part in paragraphs(pen.text.replace("**", ""))])

    def violate(self, text: str) -> str:
        """Add a heading."""
        return f"# Heading\n\n{text}"
