"""Prompts and texts without what is stored already: a quoted tail is kept as a reference.

The prompts of a stage differ in the tails they quote and in nothing else. What stands around the
tails, their frame, is stored with the first candidate that has it; the others name that one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from openzaya.core.records import Message
from openzaya.ttc.result import Candidate

LONG_PARTS = ("thinking", "answer_text", "tail")
"""Parts of a candidate that usually occur in its text."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a prompt says around the tails that it quotes."""

    before: tuple[Message, ...]
    """All turns but the last."""
    role: str
    parts: tuple[str | int, ...]
    """The last turn: texts, and numbers of quoted tails, from 0 in prompt order."""

    @classmethod
    def of(cls, messages: Sequence[Message], tails: Sequence[str]) -> Self:
        """Return the frame of a prompt; a tail that is not quoted as it is stays a text."""
        *before, last = messages
        parts: list[str | int] = [last.content]
        for number, tail in enumerate(tails):
            quoted, rest = tail.strip(), parts[-1]
            if not quoted or not isinstance(rest, str) or (at := rest.find(quoted)) < 0:
                continue
            parts[-1:] = [rest[:at], number, rest[at + len(quoted) :]]
        return cls(tuple(before), last.role, tuple(parts))

    def fits(self, messages: Sequence[Message], tails: Sequence[str]) -> bool:
        """Say whether a prompt is this frame around these tails."""
        *before, last = messages
        is_alike = last.role == self.role and self.before == tuple(before)
        return is_alike and self.quoting(tails) == last.content

    def quoting(self, tails: Sequence[str]) -> str:
        """Return the last turn with tails in their places."""
        return "".join(p if isinstance(p, str) else tails[p].strip() for p in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored."""
        before = [asdict(message) for message in self.before]
        return {"before": before, "role": self.role, "parts": self.parts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the frame again."""
        before = tuple(Message(**message) for message in data["before"])
        return cls(before, data["role"], tuple(data["parts"]))


def shown_prompt(frame: Frame, tails: Sequence[str]) -> list[dict[str, Any]]:
    """Return the messages of a prompt."""
    last = Message(frame.role, frame.quoting(tails))  # type: ignore[arg-type]
    return [asdict(message) for message in (*frame.before, last)]


def parts_of(candidate: Candidate) -> dict[str, Any]:
    """Return the parts of a candidate's text; one that occurs in it is [begin, length]."""
    whole, parts = candidate.text, {}
    for name in LONG_PARTS:
        part = getattr(candidate, name)
        # Reasoning as a rule begins the text, where searching from its end would find it last.
        at = 0 if whole.startswith(part) else whole.rfind(part)
        parts[name] = part if at < 0 else (at, len(part))
    return parts


def texts_of(whole: str, parts: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a candidate again."""
    texts = {"text": whole}
    for name in LONG_PARTS:
        part = parts[name]
        texts[name] = part if isinstance(part, str) else whole[part[0] : part[0] + part[1]]
    return texts
