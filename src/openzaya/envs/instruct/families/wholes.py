"""The reply as a whole: one JSON object, one quotation, two answers, named sections."""

import json
import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined, paragraphs
from openzaya.envs.instruct.reading import Reading, split_sentences, words

ALL = frozenset(
    {"whole", "start", "end", "paragraphs", "every paragraph", "sections", "list", "lines"}
    | {"sentences", "sentence length", "paragraph start", "case", "divider", "longest paragraph"}
)
"""What a reply of a fixed form decides alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonReply(Constraint):
    """The whole reply is a JSON object with given keys and texts as values."""

    keys: tuple[str, ...]
    rarity = 2
    wordings = (
        "Reply with one JSON object and nothing else; its keys are exactly {keys} and every value"
        " is a non-empty string.",
        "The whole reply must be a JSON object with the keys {keys}, each holding a string with"
        " text; no other keys, no text around it.",
    )
    claims = ALL
    bans = frozenset({
        "markdown", "blocks", "bare lines", "question", "exclamation", "semicolon", "parenthesis",
        "bracket", "dash", "ellipsis", "unpunctuated",
    })  # fmt: skip
    needs = frozenset({"english", "quote", "comma", "colon"})
    turn = 10
    examples = (
        Example({"keys": ["a", "b"]}, '{"b": "x y", "a": "z"}', '{"a": "x y", "b": 3}'),
        Example({"keys": ["a"]}, ' {"a": "x"}\n', '```\n{"a": "x"}\n```'),
        Example({"keys": ["a"]}, '{"a":"x"}', '{"a": "x", "a": "y"}'),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four keys."""
        keys = ("title", "summary", "details", "advice", "background", "conclusion")
        return cls(keys=tuple(draw.rng.sample(keys, 2 + min(draw.level // 3, 2))))

    def check(self, reply: Reading) -> bool:
        """It parses, has just these keys, and texts as values."""
        if not reply.text.startswith("{"):
            return False
        try:
            pairs = json.loads(reply.text, object_pairs_hook=list, parse_int=float)
        except (ValueError, RecursionError):
            return False
        named = [pair for pair in pairs if isinstance(pair, tuple)]
        texts = all(isinstance(value, str) and words(value) for _, value in named)
        return texts and sorted(key for key, _ in named) == sorted(self.keys)

    def satisfy(self, pen: Pen) -> str:
        """Deal the sentences out to the keys."""
        text = pen.text
        said = split_sentences(text.replace("\n", " "))
        while len(said) < len(self.keys):
            said.append(pen.sentence())
        dealt = {key: " ".join(said[i :: len(self.keys)]) for i, key in enumerate(self.keys)}
        return json.dumps(dealt, ensure_ascii=False)

    def violate(self, text: str) -> str:
        """Put a fence around it."""
        return f"```json\n{text}\n```"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotedReply(Constraint):
    """The whole reply stands in double quotation marks."""

    rarity = 1
    wordings = (
        'Wrap your whole reply in double quotation marks (").',
        'The first and the last character of your reply must be a double quotation mark (").',
    )
    claims = frozenset({"whole", "start", "end"})
    needs = frozenset({"english", "quote"})
    bans = frozenset({"blocks"})
    turn = 10
    examples = (Example({}, ' "So it is." ', 'So "it is."'), Example({}, '"a"', '"'))

    def check(self, reply: Reading) -> bool:
        """One at each end, with something between."""
        return len(reply.text) > 2 and reply.text[0] == reply.text[-1] == '"'

    def satisfy(self, pen: Pen) -> str:
        """Add them."""
        return f'"{pen.text.strip().strip(chr(34))}"'

    def violate(self, text: str) -> str:
        """Leave the last one out."""
        return text.rstrip().rstrip('"')


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoAnswers(Constraint):
    """Two different answers with a line of six asterisks between them."""

    rarity = 2
    wordings = (
        "Give two different replies, separated by one line of exactly six asterisks: ******",
        "Answer twice, in different ways, with a line that contains only ****** in between.",
    )
    claims = frozenset({"paragraphs", "divider", "whole"})
    needs = frozenset({"english", "markdown", "blocks", "asterisk"})
    turn = 8
    examples = (
        Example({}, "One.\n******\nTwo.", "One.\n******\nOne."),
        Example({}, "One.\n\n******\n\nTwo.", "One.\n***\nTwo."),
    )

    def check(self, reply: Reading) -> bool:
        """Two parts that differ in their words."""
        parts = re.split(r"^\*{6}$", reply.text, flags=re.MULTILINE)
        said = [words(part) for part in parts]
        return len(said) == 2 and all(said) and said[0] != said[1]

    def satisfy(self, pen: Pen) -> str:
        """Put the line between paragraphs."""
        text = pen.text
        parts = [part for part in paragraphs(text) if part != "******"]
        while len(parts) < 2:
            parts = paragraphs(pen.block(joined(parts), pen.sentence()))
        return pen.best([joined([*parts[:i], "******", *parts[i:]]) for i in range(1, len(parts))])

    def violate(self, text: str) -> str:
        """Give the first answer twice."""
        return f"{text.partition('******')[0]}\n******\n{text.partition('******')[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSections(Constraint):
    """Exactly so many sections, marked by a word and a number on a line of its own."""

    splitter: str
    count: int
    rarity = 2
    wordings = (
        'Write exactly {count} sections. Mark the beginning of each with a line "{splitter} 1",'
        ' "{splitter} 2" and so on.',
        'The reply must have {count} parts, each below its own line "{splitter} X" with X = 1, 2,'
        " ...",
    )
    claims = frozenset({"paragraphs", "sections", "start"})
    needs = frozenset({"english", "blocks", "bare lines", "digit", "mixed case"})
    turn = 10
    examples = (
        Example(
            {"splitter": "Part", "count": 2}, "Part 1\nYes.\n\nPart 2\nNo.", "Part 1\nYes.\nPart 2"
        ),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four."""
        word = draw.rng.choice(("Section", "Part", "Chapter", "Scene"))
        return cls(splitter=word, count=2 + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """The numbers run from one, and each section has words."""
        pattern = rf"^{re.escape(self.splitter)} ([0-9]{{1,3}}):?$"
        parts = re.split(pattern, reply.text, flags=re.MULTILINE)
        numbers, bodies = parts[1::2], parts[2::2]
        wanted = [str(number) for number in range(1, self.count + 1)]
        return numbers == wanted and all(words(body) for body in bodies)

    def satisfy(self, pen: Pen) -> str:
        """Put the lines in front of the first paragraphs."""
        text = pen.text
        pattern = rf"{re.escape(self.splitter)} [0-9]+"
        parts = [part for part in paragraphs(text) if not re.fullmatch(pattern, part)]
        while len(parts) < self.count:
            parts = paragraphs(pen.block(joined(parts), pen.sentence()))
        told = [
            each for i, part in enumerate(parts)
            for each in ([f"{self.splitter} {i + 1}"] if i < self.count else []) + [part]
        ]  # fmt: skip
        return joined(told)

    def violate(self, text: str) -> str:
        """Skip a number."""
        return text.replace(f"{self.splitter} 2", f"{self.splitter} 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledParts(Constraint):
    """Lines that begin with given labels, in the given order."""

    labels: tuple[str, ...]
    rarity = 2
    wordings = (
        "Include lines that begin with the labels {labels}, in this order, each followed by text.",
        "Each of the labels {labels} must start a line once, in this order, with text after it on"
        " the same line.",
    )
    needs = frozenset({"english", "blocks", "bare lines", "colon", "mixed case"})
    turn = 4
    examples = (
        Example(
            {"labels": ["Pros:", "Cons:"]}, "Pros: cheap.\nCons: slow.", "Cons: slow.\nPros: cheap."
        ),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two labels that go together, later three."""
        two = (("Pros:", "Cons:"), ("Problem:", "Solution:"), ("Past:", "Present:"))
        three = (("Who:", "What:", "Why:"), ("Idea:", "Reason:", "Example:"))
        return cls(labels=draw.rng.choice(two if draw.level < 4 else three))

    def check(self, reply: Reading) -> bool:
        """Each once, in order, not empty."""
        found = [
            label for line in reply.lines for label in self.labels
            if line.startswith(label) and words(line.removeprefix(label))
        ]  # fmt: skip
        return found == list(self.labels)

    def satisfy(self, pen: Pen) -> str:
        """Add them as one block."""
        text = pen.text
        kept = [part for part in paragraphs(text) if not part.startswith(self.labels)]
        lines = [f"{label} {pen.sentence()}" for label in self.labels]
        return pen.block(joined(kept), "\n".join(lines))

    def violate(self, text: str) -> str:
        """Take the first label off."""
        return text.replace(self.labels[0], "")
