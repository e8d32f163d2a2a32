"""Blocks: titles, headings, fences, block quotes, rules, tags and tables."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined, paragraphs
from openzaya.envs.instruct.reading import Reading, words

_TITLE = re.compile(r"<<[^<>\n]+>>")
_HEADING = re.compile(r"(#{1,6}) +(\S.*)")


def _headings(reply: Reading, level: int) -> list[str]:
    """Return the texts of the headings of one level."""
    found = (_HEADING.fullmatch(line) for line in reply.lines)
    return [match[2] for match in found if match and len(match[1]) == level and words(match[2])]


@dataclass(frozen=True, slots=True, kw_only=True)
class AngleTitle(Constraint):
    """A title in double angle brackets on the first line."""

    rarity = 1
    wordings = (
        "Begin with a title wrapped in double angle brackets, such as <<joy of cooking>>.",
        "The first line must be a title of your choice in double angle brackets: <<title>>.",
    )
    claims = frozenset({"start"})
    needs = frozenset({"blocks", "bare lines"})
    turn = 9
    examples = (Example({}, "<<A title>>\nText.", "<A title>\nText."),)

    def check(self, reply: Reading) -> bool:
        """The first line is a title, and there is something below it."""
        first = _TITLE.fullmatch(reply.lines[0]) if len(reply.lines) > 1 else None
        return first is not None and bool(words(first[0]))

    def satisfy(self, pen: Pen) -> str:
        """Put it on top."""
        return f"<<{pen.topic.name}>>\n\n{pen.text}"

    def violate(self, text: str) -> str:
        """Use single brackets."""
        return text.replace("<<", "<").replace(">>", ">")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopHeading(Constraint):
    """The first line is the only heading of level one."""

    rarity = 2
    wordings = (
        'Start with a markdown heading of level one ("# Title"); it must be the only one of that'
        " level.",
        'The first line is a "# " heading, and no other line is one.',
    )
    claims = frozenset({"start"})
    needs = frozenset({"markdown", "blocks"})
    turn = 9
    examples = (Example({}, "# One\n\n## Two\nText", "# One\n\n# Two"),)

    def check(self, reply: Reading) -> bool:
        """One at the top, none below."""
        top = reply.lines[:1]
        return len(_headings(reply, 1)) == 1 and bool(top) and top[0].startswith("# ")

    def satisfy(self, pen: Pen) -> str:
        """Put it on top."""
        text = pen.text
        lines = [line for line in text.split("\n") if not line.startswith("# ")]
        return f"# {pen.topic.name.capitalize()}\n\n" + "\n".join(lines).strip()

    def violate(self, text: str) -> str:
        """Add a second one."""
        return f"{text}\n\n# Another one"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubheadingsExactly(Constraint):
    """Exactly so many headings of level two."""

    count: int
    rarity = 1
    wordings = (
        'Structure the reply with exactly {count} markdown headings of level two ("## Heading").',
        'Use "## " for exactly {count} section headings.',
    )
    claims = frozenset({"sections"})
    needs = frozenset({"markdown", "blocks"})
    turn = 4
    examples = (Example({"count": 1}, "## One\nText\n### Two", "## One\n## Two"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to five."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return len(_headings(reply, 2)) == self.count

    def satisfy(self, pen: Pen) -> str:
        """Take the old ones out and put new ones in."""
        text = pen.text
        bare = "\n".join(line for line in text.split("\n") if not line.startswith("## "))
        text = joined(paragraphs(bare))
        for noun in pen.topic.nouns[: self.count]:
            text = pen.block(text, f"## The {noun}")
        return text

    def violate(self, text: str) -> str:
        """Add one."""
        return f"{text}\n\n## One more"


@dataclass(frozen=True, slots=True, kw_only=True)
class FencedBlock(Constraint):
    """Exactly one fenced block, with text inside and outside."""

    rarity = 2
    wordings = (
        "Put one part of the reply, and only one, in a fenced block (lines of ``` around it).",
        "Include exactly one block fenced by ``` lines with some text inside; the rest stays"
        " outside.",
    )
    needs = frozenset({"markdown", "blocks", "bare lines"})
    turn = 4
    examples = (Example({}, "Text.\n\n```\nInside.\n```", "Text.\n\n```\nInside."),)

    def check(self, reply: Reading) -> bool:
        """Two fences, words between them and around them."""
        lines = reply.lines
        fences = [index for index, line in enumerate(lines) if line.startswith("```")]
        if len(fences) != 2:
            return False
        first, last = fences
        inside = lines[first + 1 : last]
        outside = [*lines[:first], *lines[last + 1 :]]
        return bool(words(" ".join(inside)) and words(" ".join(outside)))

    def satisfy(self, pen: Pen) -> str:
        """Add one."""
        return pen.block(pen.text, f"```\n{pen.sentence()}\n```")

    def violate(self, text: str) -> str:
        """Take one fence out."""
        return text.replace("```", "", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteLinesAtLeast(Constraint):
    """At least so many block quote lines."""

    count: int
    rarity = 2
    wordings = (
        'Include at least {count} block quote lines, that is lines that begin with "> ".',
        'At least {count} lines should be quoted in markdown with a leading "> ".',
    )
    needs = frozenset({"markdown", "blocks"})
    turn = 4
    examples = (Example({"count": 2}, "> one\n> two", "> one\n>\ntwo"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """One or two, later three."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 5, 1))

    def check(self, reply: Reading) -> bool:
        """Enough of them, none empty."""
        return sum(line.startswith("> ") and bool(words(line)) for line in reply.lines) >= (
            self.count
        )

    def satisfy(self, pen: Pen) -> str:
        """Add one block of them."""
        return pen.block(pen.text, "\n".join(f"> {pen.sentence()}" for _ in range(self.count)))

    def violate(self, text: str) -> str:
        """Take the signs off."""
        return re.sub(r"^> ", "", text, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesExactly(Constraint):
    """Exactly so many horizontal rules of three hyphens."""

    count: int
    rarity = 2
    wordings = (
        'Use exactly {count} horizontal rules, each a line that contains only "---".',
        'Separate sections with lines of just "---"; use {count} such lines.',
    )
    claims = frozenset({"divider"})
    needs = frozenset({"markdown", "blocks"})
    turn = 9
    examples = (Example({"count": 1}, "One.\n\n---\n\nTwo.", "One.\n---\nTwo.\n---"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """One or two, later three."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 5, 1))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return reply.lines.count("---") == self.count

    def satisfy(self, pen: Pen) -> str:
        """Take the old ones out and put new ones between paragraphs."""
        text = pen.text
        text = joined([part for part in paragraphs(text) if part != "---"])
        while len(paragraphs(text)) <= self.count:
            text = pen.block(text, pen.sentence())
        for _ in range(self.count):
            text = pen.block(text, "---")
        return text

    def violate(self, text: str) -> str:
        """Add one."""
        return f"{text}\n\n---"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagPair(Constraint):
    """One part stands between an opening and a closing tag."""

    tag: str
    rarity = 2
    wordings = (
        "Wrap one part of the reply in the tags <{tag}> and </{tag}>, each used exactly once.",
        "Put a passage between <{tag}> and </{tag}>; use this pair of tags once.",
    )
    needs = frozenset({"blocks", "bare lines", "mixed case"})
    turn = 4
    examples = (
        Example({"tag": "note"}, "So <note>this</note> is it.", "So </note>this<note> is it."),
        Example({"tag": "note"}, "<note>\nthis\n</note>", "<note></note>"),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A short name."""
        return cls(tag=draw.rng.choice(("note", "tip", "aside", "key", "gist", "core")))

    def check(self, reply: Reading) -> bool:
        """One of each, in order, with words between."""
        before, opening, rest = reply.text.partition(f"<{self.tag}>")
        inside, closing, after = rest.partition(f"</{self.tag}>")
        again = (f"<{self.tag}>" in rest) or (f"</{self.tag}>" in before + after)
        return bool(opening and closing and words(inside)) and not again

    def satisfy(self, pen: Pen) -> str:
        """Add a tagged sentence."""
        return pen.block(pen.text, f"<{self.tag}>\n{pen.sentence()}\n</{self.tag}>")

    def violate(self, text: str) -> str:
        """Leave the closing tag out."""
        return text.replace(f"</{self.tag}>", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows(Constraint):
    """One markdown table of a given size."""

    rows: int
    columns: int
    rarity = 2
    wordings = (
        "Include one markdown table with {columns} columns and exactly {rows} rows below the"
        " header; every row starts and ends with |.",
        "Add a table in markdown: a header row, a separator row, then {rows} rows, all of"
        " {columns} cells between | signs.",
    )
    needs = frozenset({"markdown", "blocks", "bare lines"})
    turn = 4
    examples = (
        Example(
            {"rows": 1, "columns": 2},
            "| a | b |\n|---|:-:|\n| c | d |",
            "| a | b |\n|---|---|\n| c | d | e |",
        ),
        Example({"rows": 1, "columns": 2}, "|a|b|\n|-|-|\n|c|d|", "|a|b|\n|c|d|"),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four rows of two or three cells."""
        return cls(rows=2 + min(draw.level // 4, 2), columns=draw.rng.randint(2, 3))

    def check(self, reply: Reading) -> bool:
        """A header, a separator and the rows, all of the right width."""
        table = [line[1:-1].split("|") for line in reply.lines
                 if len(line) > 1 and line[0] == line[-1] == "|"]  # fmt: skip
        if len(table) != self.rows + 2 or any(len(row) != self.columns for row in table):
            return False
        rule = all(set(cell.strip(" :")) == {"-"} for cell in table[1])
        cells = [cell for at, row in enumerate(table) if at != 1 for cell in row]
        return rule and all(words(cell) for cell in cells)

    def satisfy(self, pen: Pen) -> str:
        """Add one."""
        text = pen.text
        bare = "\n".join(line for line in text.split("\n") if not line.startswith("|"))
        nouns = iter(pen.topic.nouns * 2)
        rows = [[next(nouns) for _ in range(self.columns)] for _ in range(self.rows + 1)]
        rows.insert(1, ["---"] * self.columns)
        return pen.block(joined(paragraphs(bare)),
                         "\n".join(f"| {' | '.join(row)} |" for row in rows))  # fmt: skip

    def violate(self, text: str) -> str:
        """Add a row."""
        return f"{text}\n{'| x ' * self.columns}|"
