"""Paragraphs: how many and how long. A paragraph stands between blank lines."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from openzaya.envs.instruct.constraint import NEUTRAL, Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined, paragraphs, prose_indices, regroup
from openzaya.envs.instruct.reading import Reading, split_sentences, words


def _sizes(reply: Reading) -> list[int]:
    """Return the number of words of each paragraph."""
    return [len(words(part)) for part in reply.paragraphs]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphsExactly(Constraint):
    """Exactly so many paragraphs."""

    count: int
    rarity = 1
    wordings = (
        "Write exactly {count} paragraphs separated by blank lines; a list or table counts as one.",
        "Structure the reply as {count} paragraphs with a blank line between them; any list,"
        " heading or table set off by blank lines counts as a paragraph.",
    )
    claims = frozenset({"paragraphs"})
    needs = NEUTRAL
    turn = 8
    examples = (Example({"count": 2}, "One.\n\n\nTwo\nlines.", "One.\nTwo."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to seven."""
        return cls(count=draw.rng.randint(3, 5) + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return len(reply.paragraphs) == self.count

    def satisfy(self, pen: Pen) -> str:
        """Split or join."""
        return regroup(pen.text, self.count, pen)

    def violate(self, text: str) -> str:
        """Add one."""
        return f"{text}\n\nAnd one more."


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphsDivided(Constraint):
    """Parts divided by a line of three asterisks, and no other blank-line paragraphs."""

    count: int
    rarity = 2
    wordings = (
        "Divide the reply into {count} parts, separated by lines that contain only ***.",
        "There should be {count} parts. Put a line with just *** between each two of them.",
    )
    claims = frozenset({"paragraphs", "divider"})
    needs = frozenset({"english", "markdown", "blocks", "asterisk"})
    turn = 8
    examples = (Example({"count": 2}, "One.\n\n***\n\nTwo.", "One *** Two."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to five."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """So many parts, none of them empty."""
        parts = re.split(r"^\*\*\*$", reply.text, flags=re.MULTILINE)
        return len(parts) == self.count and all(words(part) for part in parts)

    def satisfy(self, pen: Pen) -> str:
        """Take all dividers out and put new ones between paragraphs."""
        text = pen.text
        parts = [part for part in paragraphs(text) if part != "***"]
        if len(parts) < self.count:
            parts = paragraphs(regroup(joined(parts), self.count, pen))
        told = [part for one in parts[: self.count - 1] for part in (one, "***")]
        return joined([*told, *parts[self.count - 1 :]])

    def violate(self, text: str) -> str:
        """Take one divider out."""
        return text.replace("***", "", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphSentences(Constraint):
    """Every paragraph has exactly so many sentences."""

    count: int
    rarity = 3
    wordings = (
        "Every paragraph must have exactly {count} sentences.",
        "Give each paragraph (they are separated by blank lines) exactly {count} sentences.",
    )
    claims = frozenset({"sentences", "every paragraph", "start", "end"})
    needs = NEUTRAL
    bans = frozenset({"blocks"})
    turn = 8
    examples = (Example({"count": 2}, "One. Two.\n\nThree? Four!", "One. Two.\n\nThree."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 6, 1))

    def check(self, reply: Reading) -> bool:
        """Each has just so many, and there is one."""
        parts = reply.paragraphs
        return bool(parts) and all(len(split_sentences(part)) == self.count for part in parts)

    def satisfy(self, pen: Pen) -> str:
        """Deal the sentences out anew, so many to each; fresh ones fill the last paragraph."""
        said = list(Reading(pen.text).sentences)
        said += [pen.sentence() for _ in range(-len(said) % self.count)]
        starts = range(0, len(said), self.count)
        return joined([" ".join(said[start : start + self.count]) for start in starts])

    def violate(self, text: str) -> str:
        """Add a sentence at the end."""
        return f"{text} That is one more."


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphsGrow(Constraint):
    """Each paragraph has more words than the one before."""

    count: int
    rarity = 3
    wordings = (
        "Write at least {count} paragraphs, each with more words than the one before it.",
        "Let the paragraphs grow: {count} or more of them, every one longer (in words) than the"
        " previous one.",
    )
    claims = frozenset({"paragraphs", "every paragraph", "start", "end"})
    bans = frozenset({"blocks", "short reply"})
    turn = 9
    examples = (Example({"count": 2}, "One.\n\nOne two.", "One two.\n\nOne two."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to four."""
        return cls(count=2 + min(draw.level // 3, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, and their sizes rise."""
        sizes = _sizes(reply)
        rising = all(a < b for a, b in pairwise(sizes))
        return len(sizes) >= self.count and rising

    def satisfy(self, pen: Pen) -> str:
        """Sort them by length; add to those that are not longer than the one before."""
        text = pen.text
        if len(paragraphs(text)) < self.count:
            text = regroup(text, self.count, pen)
        parts = sorted(paragraphs(text), key=lambda part: len(words(part)))
        for index in range(1, len(parts)):
            while len(words(parts[index])) <= len(words(parts[index - 1])):
                parts[index] = pen.add(parts[index], pen.sentence())
        return joined(parts)

    def violate(self, text: str) -> str:
        """Repeat the last one."""
        return joined([*paragraphs(text), paragraphs(text)[-1]])


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstParagraphLongest(Constraint):
    """The first paragraph has more words than any other."""

    rarity = 3
    wordings = (
        "The first paragraph must have more words than any other paragraph; write at least two.",
        "Write two or more paragraphs and make the first one the longest (in words).",
    )
    claims = frozenset({"every paragraph", "longest paragraph", "start"})
    bans = frozenset({"blocks", "short reply"})
    turn = 9
    examples = (Example({}, "One two three.\n\nOne two.", "One.\n\nOne two."),)

    def check(self, reply: Reading) -> bool:
        """It is strictly the longest of several."""
        sizes = _sizes(reply)
        return len(sizes) > 1 and all(size < sizes[0] for size in sizes[1:])

    def satisfy(self, pen: Pen) -> str:
        """Add to the first one."""
        text = pen.text
        parts = paragraphs(regroup(text, 2, pen) if len(paragraphs(text)) < 2 else text)
        limit = max(len(words(part)) for part in parts[1:])
        while len(words(parts[0])) <= limit:
            parts[0] = pen.add(parts[0], pen.sentence())
        return joined(parts)

    def violate(self, text: str) -> str:
        """Repeat the first one."""
        return joined([*paragraphs(text), paragraphs(text)[0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphWordsAtMost(Constraint):
    """No paragraph is longer than so many words, and there are several."""

    count: int
    rarity = 2
    wordings = (
        "Write at least two paragraphs, none of them longer than {count} words.",
        "Keep each paragraph to {count} words or fewer and write two or more paragraphs.",
    )
    claims = frozenset({"every paragraph", "longest paragraph"})
    bans = frozenset({"blocks"})
    turn = 8
    examples = (Example({"count": 2}, "One two.\n\nThree.", "One two three.\n\nFour."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """From 45 words down to 30."""
        return cls(count=max(30, 45 - 2 * draw.level))

    def check(self, reply: Reading) -> bool:
        """All are short enough."""
        sizes = _sizes(reply)
        return len(sizes) > 1 and max(sizes) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Split the long ones."""
        text = pen.text
        parts = []
        for part in paragraphs(text):
            said = split_sentences(part) if prose_indices([part]) else [part]
            half = (len(said) + 1) // 2
            long = len(words(part)) > self.count
            parts += [" ".join(said[:half]), " ".join(said[half:])] if long else [part]
        return joined(parts) if len(parts) > 1 else pen.block(text, pen.sentence())

    def violate(self, text: str) -> str:
        """Add a long one."""
        return f"{text}\n\n{'On and ' * self.count}on."


@dataclass(frozen=True, slots=True, kw_only=True)
class LastParagraphOneSentence(Constraint):
    """The last paragraph is a single sentence; an earlier one is not."""

    rarity = 2
    wordings = (
        "The last paragraph must be one single sentence, after at least one longer paragraph.",
        "Close with a paragraph of just one sentence; an earlier paragraph must have more.",
    )
    claims = frozenset({"end", "every paragraph"})
    needs = NEUTRAL
    turn = 8
    examples = (Example({}, "One. Two.\n\nThree.", "One. Two.\n\nThree. Four."),)

    def check(self, reply: Reading) -> bool:
        """One sentence at the end, more before."""
        sizes = [len(split_sentences(part)) for part in reply.paragraphs]
        return len(sizes) > 1 and sizes[-1] == 1 and max(sizes[:-1]) > 1

    def satisfy(self, pen: Pen) -> str:
        """Add it."""
        text = pen.text
        parts = paragraphs(text)
        said = split_sentences(parts[-1])
        if prose_indices([parts[-1]]) and len(said) > 1:
            return joined([*parts[:-1], " ".join(said[:-1]), said[-1]])
        if len(said) == 1:
            return pen.add(joined(parts[:-1]), pen.sentence()) + f"\n\n{parts[-1]}"
        return joined([*parts, pen.sentence()])

    def violate(self, text: str) -> str:
        """Add a sentence to it."""
        return f"{text} That is one more."
