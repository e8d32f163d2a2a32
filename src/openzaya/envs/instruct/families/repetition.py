"""Repetition: what must come again, and what must not."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import NEUTRAL, Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import is_prose, joined, map_prose, paragraphs
from openzaya.envs.instruct.reading import Reading, words


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoAtEnd(Constraint):
    """The last sentence repeats the first."""

    rarity = 3
    wordings = (
        "Close the circle: your last sentence must repeat your first sentence word for word.",
        "The final sentence should be the same as the opening sentence, letter by letter.",
    )
    claims = frozenset({"start", "end"})
    needs = frozenset({"english", "repetition"})
    bans = frozenset({"blocks"})
    turn = 9
    examples = (Example({}, "So. It is. So.", "So. It is. Sure."), Example({}, "A b. A b.", "A b."))

    def check(self, reply: Reading) -> bool:
        """They are the same, and not the same one."""
        return len(reply.sentences) > 1 and reply.sentences[0] == reply.sentences[-1]

    def satisfy(self, pen: Pen) -> str:
        """Say the first again."""
        text = pen.text
        said = Reading(text).sentences
        return f"{text} {said[0]}" if is_prose(paragraphs(text)[-1]) else f"{text}\n\n{said[0]}"

    def violate(self, text: str) -> str:
        """Say something else."""
        return f"{text} That is all."


@dataclass(frozen=True, slots=True, kw_only=True)
class Refrain(Constraint):
    """Each paragraph ends with the same sentence."""

    phrase: str
    rarity = 3
    wordings = (
        'End every paragraph with the refrain "{phrase}" and write at least two paragraphs.',
        'Write two or more paragraphs; the last words of each must be "{phrase}"',
    )
    claims = frozenset({"end", "every paragraph"})
    needs = frozenset({"english", "mixed case", "full stop", "repetition"})
    bans = frozenset({"blocks"})
    turn = 9
    examples = (Example({"phrase": "So be it."}, "Yes. So be it.\n\nNo. So be it.", "So be it."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """A refrain."""
        return cls(
            phrase=draw.rng.choice(("And so it goes.", "Time will tell.", "That much is sure."))
        )

    def check(self, reply: Reading) -> bool:
        """All of several, each with something before it."""
        parts = reply.paragraphs
        ended = (part.endswith(self.phrase) and part != self.phrase for part in parts)
        return len(parts) > 1 and all(ended)

    def satisfy(self, pen: Pen) -> str:
        """Add it where it is missing."""
        text = pen.text
        if len(paragraphs(text)) < 2:
            text = pen.block(text, pen.sentence())
        bare = paragraphs(text.replace(f" {self.phrase}", ""))
        return joined([f"{part} {self.phrase}" for part in bare])

    def violate(self, text: str) -> str:
        """Add a paragraph without."""
        return f"{text}\n\nAnd one more."


@dataclass(frozen=True, slots=True, kw_only=True)
class DistinctOpeners(Constraint):
    """No two sentences begin with the same word."""

    rarity = 2
    wordings = (
        "No two sentences may begin with the same word; write at least three sentences.",
        "Begin each sentence (three or more) with a different word.",
    )
    claims = frozenset({"openers"})
    needs = frozenset({"english", "fresh"})
    bans = frozenset({"repetition", "blocks"})
    turn = 10
    examples = (Example({}, "A cat. The dog. Two.", "A cat. The dog. A bird."),)

    def check(self, reply: Reading) -> bool:
        """All are different."""
        first = [words(sentence)[0] for sentence in reply.sentences if words(sentence)]
        return len(first) > 2 and len(set(first)) == len(first)

    def satisfy(self, pen: Pen) -> str:
        """Drop sentences that begin like an earlier one."""
        text = pen.text
        seen: set[str] = set()

        def fresh(said: list[str]) -> list[str]:
            kept = []
            for sentence in said:
                if words(sentence)[0] not in seen:
                    kept.append(sentence)
                seen.add(words(sentence)[0])
            return kept or [pen.sentence()]

        text = map_prose(text, fresh)
        return text if len(Reading(text).sentences) > 2 else pen.add(text, pen.sentence())

    def violate(self, text: str) -> str:
        """Begin two more sentences alike."""
        return f"{text}\n\nSo it is. So be it."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPhraseTwice(Constraint):
    """No run of so many words occurs twice."""

    length: int
    rarity = 3
    wordings = (
        "Never repeat a phrase: no {length} words in a row may occur twice in your reply.",
        "Avoid repeating yourself; any sequence of {length} words may appear only once.",
    )
    needs = frozenset({"english", "fresh"})
    bans = frozenset({"repetition"})
    turn = 10
    examples = (Example({"length": 2}, "A big cat, a cat big.", "A big cat, a big dog."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Five words, later four."""
        return cls(length=5 if draw.level < 4 else 4)

    def _runs(self, said: list[str]) -> Counter[tuple[str, ...]]:
        places = range(len(said) - self.length + 1)
        return Counter(tuple(said[place : place + self.length]) for place in places)

    def check(self, reply: Reading) -> bool:
        """There are runs, each once."""
        runs = self._runs(reply.words)
        return bool(runs) and len(runs) == runs.total()

    def satisfy(self, pen: Pen) -> str:
        """Drop sentences that repeat a run."""
        text = pen.text
        seen: set[tuple[str, ...]] = set()

        def fresh(said: list[str]) -> list[str]:
            kept = []
            for sentence in said:
                runs = set(self._runs(words(sentence)))
                if not runs & seen:
                    kept.append(sentence)
                seen.update(runs)
            return kept or [pen.sentence()]

        return map_prose(text, fresh)

    def violate(self, text: str) -> str:
        """Say it all again."""
        return f"{text}\n\n{text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSentenceTwice(Constraint):
    """All sentences are different, and there are several."""

    count: int
    rarity = 2
    wordings = (
        "Write at least {count} sentences and never use the same sentence twice.",
        "There must be {count} or more sentences, all of them different.",
    )
    claims = frozenset({"sentences"})
    needs = NEUTRAL
    bans = frozenset({"repetition"})
    turn = 7
    examples = (Example({"count": 2}, "One. Two.", "One. Two. one."),)

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """Four to nine."""
        return cls(count=draw.rng.randint(4, 5) + min(draw.level // 2, 4))

    def check(self, reply: Reading) -> bool:
        """Enough of them, all different in their words."""
        said = [" ".join(sentence.lower().split()).rstrip(".!?") for sentence in reply.sentences]
        return len(said) >= self.count and len(set(said)) == len(said)

    def satisfy(self, pen: Pen) -> str:
        """Add fresh ones."""
        text = pen.text
        while len(Reading(text).sentences) < self.count:
            text = pen.add(text, pen.sentence())
        return map_prose(text, lambda said: list(dict.fromkeys(said)))

    def violate(self, text: str) -> str:
        """Say one twice."""
        return f"{text}\n\nSo it is. So it is."
