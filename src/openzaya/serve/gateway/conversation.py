"""The turns of a request as the state machine sees them, and back.

The machine replaces the question by a prompt that aggregates; everything else of the conversation
must reach the model as the client wrote it: other turns with their tool calls, parts that are no
text, and what came after the question (calls of tools and their results).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from openzaya.core.records import Message, Role
from openzaya.serve.errors import bad_request


class Turn(Protocol):
    """One turn, in the form of either schema."""

    @property
    def role(self) -> str:
        """Who speaks."""
        ...

    @property
    def content(self) -> Any:
        """A text, a list of parts, or None."""
        ...


def text_of_content(content: Any) -> str:
    """Return the text in a content; other parts have none."""
    if content is None or isinstance(content, str):
        return content or ""
    found = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else getattr(part, "text", None)
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind == "text" and isinstance(text, str):
            found.append(text)
    return "".join(found)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a request; the last one of the user is the question."""

    turns: tuple[Any, ...]
    """As the schema read them."""
    asks_at: int
    """Which turn is the question."""

    @staticmethod
    def of(turns: Sequence[Turn]) -> "Conversation":
        """Find the question. Raises ApiError 400 when nobody asks anything."""
        asks = [at for at, turn in enumerate(turns) if turn.role == "user"]
        if not asks or not text_of_content(turns[asks[-1]].content).strip():
            raise bad_request(
                "test-time compute needs a user's turn that asks something; add one, or send "
                '"ttc": false',
                "messages",
            )
        return Conversation(tuple(turns), asks[-1])

    @property
    def question(self) -> tuple[Message, ...]:
        """The turns up to the question, as texts: what the state machine works on."""
        return tuple(
            Message(_role(turn.role), text_of_content(turn.content))
            for turn in self.turns[: self.asks_at + 1]
        )

    def contents_with(self, question: str) -> list[tuple[Any, Any]]:
        """Return every turn with the content that it has when `question` replaces the question."""
        told = [(turn, turn.content) for turn in self.turns]
        told[self.asks_at] = (self.turns[self.asks_at], self.content_with(question))
        return told

    def content_with(self, question: str) -> Any:
        """Return the content of the turn that asks, with `question` in the place of its text."""
        old = self.turns[self.asks_at].content
        if isinstance(old, list):
            others = [p for p in old if isinstance(p, dict) and p.get("type") != "text"]
            if others:
                return [{"type": "text", "text": question}, *others]
        return question


def _role(role: str) -> Role:
    return "system" if role == "developer" else cast(Role, role)
