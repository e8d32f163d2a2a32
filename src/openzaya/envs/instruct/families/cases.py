"""Case: capital and small letters."""

import re
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import capitalised, joined, paragraphs, swap_word
from openzaya.envs.instruct.reading import Reading, unmarked

_CAPITALS = re.compile(r"(?<![^\W_])[A-Z]{2,}(?![^\W_])")
_SHOUTS = ("YES", "NOW", "WELL", "EVER", "VERY", "TRUE", "CALM", "MORE")
_FIRST_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllUppercase(Constraint):
    """No small letters."""

    rarity = 1
    wordings = (
        "Write the whole reply in capital letters.",
        "Use capital letters only; no small letter may appear.",
    )
    claims = frozenset({"case"})
    bans = frozenset({"mixed case", "few capitals"})
    turn = 11
    examples = (Example({}, "ALL OF IT, 2 TIMES.", "ALL OF It."),)

    def check(self, reply: Reading) -> bool:
        """There are letters, all of them capital."""
        return reply.text.isupper()

    def satisfy(self, pen: Pen) -> str:
        """Shout."""
        return pen.text.upper()

    def violate(self, text: str) -> str:
        """Calm down."""
        return text.capitalize()


@dataclass(frozen=True, slots=True, kw_only=True)
class AllLowercase(Constraint):
    """No capital letters."""

    rarity = 1
    wordings = (
        "Write the whole reply in small letters; no capitals at all.",
        "Use lowercase letters only, even at the start of sentences and in names.",
    )
    claims = frozenset({"case"})
    bans = frozenset({"mixed case", "capitals"})
    turn = 11
    examples = (Example({}, "all of it, 2 times.", "All of it."),)

    def check(self, reply: Reading) -> bool:
        """There are letters, none of them capital."""
        return reply.text.islower()

    def satisfy(self, pen: Pen) -> str:
        """Lower them."""
        return pen.text.lower()

    def violate(self, text: str) -> str:
        """Begin with a capital."""
        return f"So {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapitalsAtLeast(Constraint):
    """At least so many words in capitals."""

    count: int
    rarity = 1
    wordings = (
        "Write at least {count} words (of two or more letters) entirely in CAPITALS.",
        "Use capital letters throughout for {count} or more words of at least two letters.",
    )
    needs = frozenset({"english", "capitals", "mixed case"})
    claims = frozenset({"capitals"})
    examples = (Example({"count": 2}, "NO, never EVER.", "NO, I never."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Two to six."""
        return cls(count=draw.rng.randint(2, 3) + min(draw.level // 3, 3))

    def check(self, reply: Reading) -> bool:
        """Enough of them."""
        return len(_CAPITALS.findall(reply.text)) >= self.count

    def satisfy(self, pen: Pen) -> str:
        """Mention some."""
        text = pen.text
        for word in _SHOUTS[: self.count - len(_CAPITALS.findall(text))]:
            text = pen.add(text, pen.mention(word))
        return text

    def violate(self, text: str) -> str:
        """Lower all letters."""
        return text.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class CapitalsAtMost(Constraint):
    """Some words in capitals, but not more than allowed."""

    count: int
    rarity = 2
    wordings = (
        "Write at least one but at most {count} words (of two or more letters) all in CAPITALS.",
        "Use between 1 and {count} fully capitalised words of two or more letters.",
    )
    needs = frozenset({"english", "capitals", "mixed case", "few capitals"})
    claims = frozenset({"capitals"})
    examples = (
        Example({"count": 2}, "NO, never EVER. I say.", "NO, NEVER EVER."),
        Example({"count": 2}, "It is an OAK.", "I say no."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Four words, later two."""
        return cls(count=4 if draw.level < 4 else 2)

    def check(self, reply: Reading) -> bool:
        """Some, not too many."""
        return 1 <= len(_CAPITALS.findall(reply.text)) <= self.count

    def satisfy(self, pen: Pen) -> str:
        """Lower those that there are and mention one."""
        text = pen.text
        text = _CAPITALS.sub(lambda found: found[0].lower(), text)
        return pen.add(text, pen.mention(_SHOUTS[0]))

    def violate(self, text: str) -> str:
        """Shout too often."""
        return text + " NO" * (self.count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordUppercase(Constraint):
    """A word is in capitals wherever it occurs, and it occurs."""

    word: str
    rarity = 2
    wordings = (
        'Use the word "{word}" and write it in capital letters every time.',
        'Whenever the word "{word}" appears, all its letters must be capitals; use it at least'
        " once.",
    )
    needs = frozenset({"english", "capitals", "mixed case"})
    claims = frozenset({"capitals"})
    turn = 10
    examples = (
        Example({"word": "tea"}, "TEA, more TEA.", "TEA, more Tea."),
        Example({"word": "tea"}, "TEA.", "A TEAPOT."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Any keyword."""
        return cls(word=draw.keyword())

    def check(self, reply: Reading) -> bool:
        """As often in capitals as at all."""
        loud = re.findall(rf"(?<![^\W_])(?<![^\W_]['-]){re.escape(self.word.upper())}"
                          rf"(?![^\W_]|['-][^\W_])", reply.text)  # fmt: skip
        return reply.counts[self.word] == len(loud) >= 1

    def satisfy(self, pen: Pen) -> str:
        """Mention it, in capitals everywhere."""
        text = pen.text
        if self.word not in Reading(text).counts:
            text = pen.add(text, pen.mention(self.word))
        return swap_word(text, self.word, self.word.upper())

    def violate(self, text: str) -> str:
        """Say it once in small letters."""
        return f"{text}\n{self.word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphsOpenInCapitals(Constraint):
    """The first word of each paragraph is in capitals."""

    rarity = 3
    wordings = (
        "Write the first word of every paragraph in CAPITALS (blank lines separate paragraphs).",
        "Each paragraph must open with a fully capitalised word.",
    )
    needs = frozenset({"english", "capitals", "mixed case"})
    claims = frozenset({"paragraph start", "start", "capitals", "every paragraph"})
    bans = frozenset({"blocks"})
    turn = 11
    examples = (Example({}, "THE sea.\n\nA boat.", "THE sea.\n\nThe boat."),)

    def check(self, reply: Reading) -> bool:
        """All of them, a list's marker aside."""
        first = [_FIRST_WORD.search(unmarked(part)) for part in reply.paragraphs]
        return bool(first) and all(found and found[0].isupper() for found in first)

    def satisfy(self, pen: Pen) -> str:
        """Raise them."""
        text = pen.text
        raised = [_FIRST_WORD.sub(lambda found: found[0].upper(), part, count=1)
                  for part in paragraphs(text)]  # fmt: skip
        return joined(raised)

    def violate(self, text: str) -> str:
        """Add a paragraph without."""
        return f"{text}\n\nOne more."


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencesStartSmall(Constraint):
    """Every sentence begins with a small letter, though capitals occur inside."""

    rarity = 3
    wordings = (
        "Begin every sentence with a small letter, but use a capital letter at least once"
        " elsewhere.",
        "No sentence may start with a capital letter; at least one capital must appear inside a"
        " sentence.",
    )
    needs = frozenset({"english", "capitals"})
    claims = frozenset({"case", "start", "end", "paragraph start", "list"})
    bans = frozenset({"blocks", "mixed case"})
    turn = 11
    examples = (Example({}, "so I said. then he left.", "so I said. Then he left."),)

    def check(self, reply: Reading) -> bool:
        """Small at the start, a capital somewhere."""
        starts = [next(filter(str.isalpha, said), "") for said in reply.sentences]
        return bool(starts) and all(map(str.islower, starts)) and reply.text.lower() != reply.text

    def satisfy(self, pen: Pen) -> str:
        """Lower the first letters and mention a name."""
        text = pen.text
        if text.count("Ada") == 0:
            text = pen.add(text, pen.mention("Ada"))
        parts = [Reading(part).sentences for part in paragraphs(text)]
        small = [" ".join(said[:1].lower() + said[1:] for said in part) for part in parts]
        return joined(small)

    def violate(self, text: str) -> str:
        """Begin with a capital."""
        return capitalised(text)
