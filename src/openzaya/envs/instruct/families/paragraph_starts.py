"""Beginnings of paragraphs: numbers and words that open them."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined, paragraphs, prose_indices, regroup
from openzaya.envs.instruct.reading import Reading, words

_NUMBERED = re.compile(r"\[([0-9]{1,3})\] \S")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedParagraphs(Constraint):
    """Each paragraph begins with its number in square brackets."""

    rarity = 3
    wordings = (
        "Begin each paragraph with its number in square brackets and a space: [1], [2], and so on;"
        " write at least two paragraphs.",
        "Number the paragraphs (two or more) by starting them with [1], [2], [3] and so on.",
    )
    claims = frozenset({"every paragraph", "paragraph start", "start", "list"})
    needs = frozenset({"digit"})
    bans = frozenset({"blocks", "bare lines"})
    turn = 10
    examples = (Example({}, "[1] One.\n\n[2] Two.", "[1] One.\n\nTwo."),)

    def check(self, reply: Reading) -> bool:
        """The numbers run from one, without a gap."""
        found = [_NUMBERED.match(part) for part in reply.paragraphs]
        numbers = [int(match[1]) if match else 0 for match in found]
        return len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1))

    def satisfy(self, pen: Pen) -> str:
        """Number them."""
        text = pen.text
        parts = paragraphs(regroup(text, 2, pen) if len(paragraphs(text)) < 2 else text)
        bare = [re.sub(r"\[[0-9]+\] ?", "", part) for part in parts]
        return joined([f"[{number}] {part}" for number, part in enumerate(bare, start=1)])

    def violate(self, text: str) -> str:
        """Skip a number."""
        return text.replace("[2]", "[3]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphOpensWith(Constraint):
    """The paragraph with a given number begins with a given word."""

    number: int
    word: str
    rarity = 2
    wordings = (
        "Write at least {number} paragraphs separated by blank lines and begin paragraph {number}"
        ' with the word "{word}".',
        'Paragraph number {number} must start with "{word}" (blank lines separate paragraphs).',
    )
    claims = frozenset({"paragraph start", "every paragraph"})
    bans = frozenset({"short reply"})
    turn = 9
    examples = (Example({"number": 2, "word": "tea"}, "One.\n\nTea helps.", "Tea.\n\nA tea."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """The second paragraph, later the third."""
        return cls(number=2 if draw.level < 4 else 3, word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """It exists and begins so."""
        parts = reply.paragraphs
        return len(parts) >= self.number and words(parts[self.number - 1])[:1] == [self.word]

    def satisfy(self, pen: Pen) -> str:
        """Put a sentence with the word first in front of it."""
        text = pen.text
        short = len(paragraphs(text)) < self.number
        parts = paragraphs(regroup(text, self.number, pen) if short else text)
        opening = f"{self.word.capitalize()} is the first word that comes to mind."
        at = self.number - 1
        parts[at] = f"{opening} {parts[at]}" if prose_indices([parts[at]]) else parts[at]
        return joined(parts) if prose_indices([parts[at]]) else joined(
            [*parts[:at], opening, *parts[at:]])  # fmt: skip

    def violate(self, text: str) -> str:
        """Begin all paragraphs with another word."""
        return joined([f"Well, {part}" for part in paragraphs(text)])
