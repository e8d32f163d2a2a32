"""Lists: bullets, numbers, letters, checkboxes, steps."""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined, paragraphs
from openzaya.envs.instruct.reading import Reading, words

_BULLET = re.compile(r"[-*] ++(?!\[[ xX]\] )(.+)")
_NUMBER = re.compile(r"([0-9]{1,3})\. ++(.+)")
_LETTER = re.compile(r"([a-z])\) ++(.+)")
_CHECK = re.compile(r"- \[([ x])\] ++(.+)")
_STEP = re.compile(r"Step ([0-9]{1,3}): *+(.+)")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _matches(pattern: re.Pattern[str], reply: Reading) -> list[re.Match[str]]:
    """Return the lines that match as a whole and contain a word after the marker."""
    found = (pattern.fullmatch(line) for line in reply.lines)
    return [match for match in found if match and words(match[match.lastindex or 0])]


def _without_lines(text: str, pattern: re.Pattern[str]) -> str:
    kept = [line for line in text.split("\n") if not pattern.fullmatch(line)]
    return joined(paragraphs("\n".join(kept)))


def _items(pen: Pen, count: int) -> list[str]:
    return [pen.sentence() for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Items(Constraint):
    """What all lists share."""

    claims = frozenset({"list"})
    needs = frozenset({"markdown", "blocks"})
    turn = 3
    pattern: ClassVar[re.Pattern[str]] = _BULLET

    def marked(self, items: list[str]) -> str:
        """Return the items as lines of such a list."""
        return "\n".join(f"- {item}" for item in items)

    def size(self) -> int:
        """How many items a writer makes."""
        raise NotImplementedError

    def satisfy(self, pen: Pen) -> str:
        """Put a new list in the place of the old one."""
        text = pen.text
        bare = _without_lines(text, self.pattern)
        return pen.block(bare, self.marked(_items(pen, self.size())))


@dataclass(frozen=True, slots=True, kw_only=True)
class BulletsExactly(_Items):
    """Exactly so many bullet points."""

    count: int
    rarity = 1
    wordings = (
        "Include exactly {count} bullet points, each on a line that starts with \"- \" or \"* \".",
        "Your reply must contain {count} bullet points in markdown (- item), no more, no fewer.",
    )  # fmt: skip
    examples = (Example({"count": 2}, "List:\n* one\n- two", "List:\n- one\n-two"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to seven."""
        return cls(count=draw.rng.randint(2, 4) + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """Just so many."""
        return len(_matches(_BULLET, reply)) == self.count

    def size(self) -> int:
        """All of them."""
        return self.count

    def violate(self, text: str) -> str:
        """Add one."""
        return f"{text}\n- one more"


@dataclass(frozen=True, slots=True, kw_only=True)
class BulletsAtLeast(_Items):
    """At least so many bullet points."""

    count: int
    rarity = 1
    wordings = (
        "Include at least {count} bullet points, each on its own line after \"- \" or \"* \".",
        "Use {count} or more markdown bullets (- item).",
    )  # fmt: skip
    examples = (Example({"count": 2}, "- one\n* two\n- three", "- one\n- \ntwo"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to eight."""
        return cls(count=draw.rng.randint(3, 5) + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """Enough of them."""
        return len(_matches(_BULLET, reply)) >= self.count

    def size(self) -> int:
        """Just enough."""
        return self.count

    def violate(self, text: str) -> str:
        """Take the bullets off."""
        return re.sub(r"^[-*] ", "", text, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulletsShort(_Items):
    """So many bullet points, none of them long."""

    count: int
    words_each: int
    rarity = 2
    wordings = (
        "Give exactly {count} bullet points (lines that start with \"- \") of at most {words_each}"
        " words each.",
        "Include {count} bullets in the form \"- item\"; no bullet may exceed {words_each} words.",
    )  # fmt: skip
    examples = (
        Example({"count": 2, "words_each": 2}, "- one two\n- three", "- one two three\n- four"),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to six bullets of up to twelve words, later eight."""
        return cls(
            count=draw.rng.randint(3, 4) + min(draw.level // 4, 2),
            words_each=max(8, 12 - draw.level),
        )

    def check(self, reply: Reading) -> bool:
        """Just so many, all short."""
        items = [match[1] for match in _matches(_BULLET, reply)]
        short = all(len(words(item)) <= self.words_each for item in items)
        return len(items) == self.count and short

    def size(self) -> int:
        """All of them."""
        return self.count

    def marked(self, items: list[str]) -> str:
        """Cut the items to their first words."""
        cut = [" ".join(item.split()[: self.words_each]).rstrip(".") + "." for item in items]
        return "\n".join(f"- {item}" for item in cut)

    def violate(self, text: str) -> str:
        """Lengthen the bullets."""
        return re.sub(r"^- ", f"- {'so ' * self.words_each}", text, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulletsEndInStop(_Items):
    """So many bullet points, each ending in a full stop."""

    count: int
    rarity = 2
    wordings = (
        "Use at least {count} bullet points (\"- item\") and end every bullet with a full stop.",
        "Include {count} or more bullets starting with \"- \"; each one ends in a period.",
    )  # fmt: skip
    needs = frozenset({"markdown", "blocks", "full stop"})
    examples = (Example({"count": 2}, "- One.\n- Two.", "- One.\n- Two"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to six."""
        return cls(count=draw.rng.randint(3, 4) + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """Enough of them, none without a stop."""
        items = [match[1] for match in _matches(_BULLET, reply)]
        return len(items) >= self.count and all(item[-1] in ".\u0964" for item in items)

    def size(self) -> int:
        """Just enough."""
        return self.count

    def violate(self, text: str) -> str:
        """Add one without a stop."""
        return f"{text}\n- one more"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedExactly(_Items):
    """One numbered list of exactly so many items, in order."""

    count: int
    rarity = 1
    wordings = (
        "Include a numbered list of exactly {count} items (lines starting with 1. 2. and so on).",
        "Your reply must contain {count} numbered items, written as 1. 2. 3. on their own lines.",
    )
    needs = frozenset({"markdown", "blocks", "digit", "full stop"})
    pattern = _NUMBER
    examples = (Example({"count": 2}, "1. one\n2. two", "1. one\n3. two"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to seven."""
        return cls(count=draw.rng.randint(3, 4) + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """The numbers run from one to the count."""
        numbers = [int(match[1]) for match in _matches(_NUMBER, reply)]
        return numbers == list(range(1, self.count + 1))

    def size(self) -> int:
        """All of them."""
        return self.count

    def marked(self, items: list[str]) -> str:
        """Number the items."""
        return "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=1))

    def violate(self, text: str) -> str:
        """Number the second item wrongly."""
        return re.sub(r"^2\.", "3.", text, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetteredExactly(_Items):
    """A list of exactly so many items lettered a), b), c)."""

    count: int
    rarity = 3
    wordings = (
        "Include a list of exactly {count} items lettered a) b) c) and so on, one per line.",
        "Give {count} items in order, each on its own line after a small letter and a bracket: a)"
        " b) c) ...",
    )
    needs = frozenset({"markdown", "blocks", "parenthesis", "mixed case"})
    pattern = _LETTER
    examples = (Example({"count": 2}, "a) one\nb) two", "a) one\nc) two"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to six."""
        return cls(count=draw.rng.randint(3, 4) + min(draw.level // 4, 2))

    def check(self, reply: Reading) -> bool:
        """The letters run from a without a gap."""
        found = "".join(match[1] for match in _matches(_LETTER, reply))
        return found == LETTERS[: self.count]

    def size(self) -> int:
        """All of them."""
        return self.count

    def marked(self, items: list[str]) -> str:
        """Letter the items."""
        return "\n".join(f"{LETTERS[i]}) {item}" for i, item in enumerate(items))

    def violate(self, text: str) -> str:
        """Letter the second item wrongly."""
        return re.sub(r"^b\)", "c)", text, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecklistExactly(_Items):
    """A checklist: so many boxes, so many of them ticked."""

    count: int
    done: int
    rarity = 3
    wordings = (
        "Include a checklist of exactly {count} items (\"- [ ] item\"), of which exactly {done} are"
        " ticked (\"- [x] item\").",
        "Add {count} checkbox lines in markdown, {done} of them ticked with an x, the rest empty.",
    )  # fmt: skip
    needs = frozenset({"markdown", "blocks", "bracket", "mixed case"})
    pattern = _CHECK
    examples = (Example({"count": 2, "done": 1}, "- [x] one\n- [ ] two", "- [x] one\n- [x] two"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to six boxes, one or two ticked."""
        return cls(
            count=draw.rng.randint(3, 4) + min(draw.level // 4, 2), done=draw.rng.randint(1, 2)
        )

    def check(self, reply: Reading) -> bool:
        """Just so many, just so many ticked."""
        ticks = [match[1] for match in _matches(_CHECK, reply)]
        return len(ticks) == self.count and ticks.count("x") == self.done

    def size(self) -> int:
        """All of them."""
        return self.count

    def marked(self, items: list[str]) -> str:
        """Tick the first items."""
        return "\n".join(
            f"- [{'x' if i < self.done else ' '}] {item}" for i, item in enumerate(items)
        )

    def violate(self, text: str) -> str:
        """Tick all."""
        return text.replace("[ ]", "[x]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsExactly(_Items):
    """Exactly so many lines "Step 1:", "Step 2:" in order."""

    count: int
    rarity = 2
    wordings = (
        'Describe exactly {count} steps on lines that begin with "Step 1:", "Step 2:" and so on.',
        'Include {count} lines labelled "Step 1:" to "Step {count}:", in order, with text after'
        " each label.",
    )
    needs = frozenset({"english", "blocks", "bare lines", "digit", "colon", "mixed case"})
    pattern = _STEP
    examples = (Example({"count": 2}, "Step 1: look.\nStep 2: leap.", "Step 1: look.\nStep 2:"),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Three to seven."""
        return cls(count=draw.rng.randint(3, 4) + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """The numbers run from one to the count."""
        numbers = [int(match[1]) for match in _matches(_STEP, reply)]
        return numbers == list(range(1, self.count + 1))

    def size(self) -> int:
        """All of them."""
        return self.count

    def marked(self, items: list[str]) -> str:
        """Label the items."""
        return "\n".join(f"Step {number}: {item}" for number, item in enumerate(items, start=1))

    def violate(self, text: str) -> str:
        """Name the second step wrongly."""
        return text.replace("Step 2:", "Step two:")
