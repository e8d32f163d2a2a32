"""Prompts and texts without what is stored already: a quoted tail is kept as a reference.

The prompts of a stage differ in the tails they quote and in nothing else. What stands around the
tails, their frame, is stored with the first candidate that has it; the others name that one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from openzaya.core.joined import Joined
from openzaya.core.records import Message
from openzaya.ttc.journal.sealed import decode, encode
from openzaya.ttc.result import Candidate

_TEXTS = ("text", "thinking", "answer_text", "tail")
"""Of a candidate: the first usually holds the others."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a prompt says around the tails that it quotes."""

    before: tuple[Message, ...]
    """All turns but the last."""
    role: str
    parts: tuple[str, ...]
    """The last turn in pieces; what stands for a tail is replaced."""
    quotes: tuple[tuple[int, int], ...]
    """Which pieces stand for tails, and for which ones, from 0 in prompt order."""

    @classmethod
    def of(cls, messages: Sequence[Message], tails: Sequence[str]) -> Self:
        """Return the frame of a prompt; a tail that is not quoted as it is stays a text."""
        *before, last = messages
        quoted = [tail.strip() for tail in tails]
        pieces, quotes = [*_pieces(last.content)], []
        if len(pieces) == 1:
            pieces = _cut(pieces[0], quoted)
        for number, tail in enumerate(quoted):
            if tail and tail in pieces:
                place = pieces.index(tail)
                quotes.append((place, number))
                pieces[place] = ""
        return cls(tuple(before), last.role, tuple(pieces), tuple(quotes))

    def fits(self, messages: Sequence[Message], tails: Sequence[str]) -> bool:
        """Say whether a prompt is this frame around these tails."""
        *before, last = messages
        if last.role != self.role or self.before != tuple(before):
            return False
        pieces = self._filled(tails)
        # Pieces that are one object are alike at a glance, however long they are.
        return pieces == [*_pieces(last.content)] or "".join(pieces) == last.content

    def _filled(self, tails: Sequence[str]) -> list[str]:
        pieces = [*self.parts]
        for place, number in self.quotes:
            pieces[place] = tails[number].strip()
        return pieces

    def prompt(self, tails: Sequence[str]) -> list[dict[str, Any]]:
        """Return the messages of a prompt with these tails."""
        last = Message(self.role, "".join(self._filled(tails)))  # type: ignore[arg-type]
        return [asdict(message) for message in (*self.before, last)]

    def to_text(self) -> str:
        """Return the form that is stored."""
        before = [asdict(message) for message in self.before]
        return encode([before, self.role, self.parts, self.quotes])

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the frame again."""
        before, role, parts, quotes = decode(text)[0]
        turns = tuple(Message(**message) for message in before)
        return cls(turns, role, tuple(parts), tuple(map(tuple, quotes)))


def _pieces(content: str) -> tuple[str, ...]:
    return content.pieces if isinstance(content, Joined) else (content,)


def _cut(text: str, quoted: Sequence[str]) -> list[str]:
    """Return a text in pieces, of which the quoted ones, in their order, are some."""
    pieces = [text]
    for tail in quoted:
        before, found, after = pieces[-1].partition(tail) if tail else (pieces[-1], "", "")
        if found:
            pieces[-1:] = [before, found, after]
    return pieces


def text_of(candidate: Candidate) -> tuple[str, list[int]]:
    """Return all texts of a candidate as one, and the spans: [begin, length] of each, in a row.

    Parts that do not occur in the text follow it.
    """
    whole, reasoning = candidate.text, candidate.thinking
    spans, rest = [0, len(whole)], ""
    # As a rule: reasoning first, whose end is the tail, and last the answer. To search for them
    # takes longer than to look there.
    for part, place in (
        (reasoning, 0),
        (candidate.answer_text, len(whole) - len(candidate.answer_text)),
        (candidate.tail, len(reasoning) - len(candidate.tail)),
    ):
        if place < 0 or not whole.startswith(part, place):
            place = whole.rfind(part)
        if place < 0:
            place = len(whole) + len(rest)
            rest += part
        spans += place, len(part)
    return whole + rest, spans


def texts_of(text: str, spans: Sequence[int]) -> dict[str, str]:
    """Return the texts of a candidate again."""
    begins, lengths = spans[::2], spans[1::2]
    parts = [text[at : at + length] for at, length in zip(begins, lengths, strict=True)]
    return dict(zip(_TEXTS, parts, strict=True))
