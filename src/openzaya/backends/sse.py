"""Server-sent events as OpenAI-compatible servers stream them, read strictly."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from openzaya.core.errors import UpstreamError

MAX_LINE_BYTES = 1 << 20
"""A longer line is no event of a chat stream."""
CLIPPED = 200
"""Characters of a foreign text that an error message quotes."""


class StreamError(UpstreamError):
    """A stream that breaks its own rules; another try may bring a sound one."""


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of every event; lines may end in CRLF and data may span several lines.

    A character that is split between chunks is put together again: lines are decoded whole. An
    event that the end of the stream cuts off is dropped. Raises StreamError for a line above 1 MiB
    or one that is not UTF-8.
    """
    pending = bytearray()
    data: list[str] = []
    async for chunk in chunks:
        pending += chunk
        if b"\n" in chunk:
            *lines, pending = pending.split(b"\n")
        else:
            lines = []
        if len(pending) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise StreamError(f"the stream has a line above {MAX_LINE_BYTES} bytes")
        for raw in lines:
            line = _decode(raw.removesuffix(b"\r"))
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []


def _decode(raw: bytearray) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StreamError(f"the stream is not UTF-8 ({error.reason})") from error


@dataclass(frozen=True, slots=True)
class Piece:
    """One delta: a stretch of text and how many tokens it stands for."""

    text: str
    num_ids: int


@dataclass(slots=True)
class ChatStream:
    """What a chat stream has said so far."""

    reasoning_pieces: list[Piece] = field(default_factory=list)
    content_pieces: list[Piece] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """Ids of everything generated, when the server sends them."""
    finish_reason: str | None = None
    is_done: bool = False
    """Whether the stream ended with its [DONE]."""
    model: str = ""
    """The name under which the server says it answered."""
    usage: dict[str, int] = field(default_factory=dict)
    num_chunks: int = 0
    """Deltas with text: about one a token on most servers."""

    @property
    def reasoning(self) -> str:
        """The text of the reasoning field so far."""
        return "".join(piece.text for piece in self.reasoning_pieces)

    @property
    def content(self) -> str:
        """The text of the content field so far."""
        return "".join(piece.text for piece in self.content_pieces)

    @property
    def num_seen(self) -> int:
        """Own count: ids where the server sends them, else deltas, a lower bound."""
        return len(self.token_ids) or self.num_chunks

    def feed(self, data: str) -> None:
        """Take in one event. Raises StreamError for anything that is no chat chunk."""
        if data.strip() == "[DONE]":
            self.is_done = True
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StreamError(f"the stream holds no JSON: {clip(data)!r}") from error
        if not isinstance(event, dict):
            raise StreamError(f"the stream holds {clip(data)!r}, expected a chat chunk")
        if event.get("error"):
            raise StreamError(f"the server reports an error: {clip(json.dumps(event['error']))}")
        self._take_usage(event.get("usage"))
        if isinstance(event.get("model"), str):
            self.model = event["model"]
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise StreamError(f"a chat chunk has no choices: {clip(data)!r}")
        for choice in choices:
            self._take_choice(choice, data)

    def _take_choice(self, choice: Any, data: str) -> None:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict) or choice.get("index", 0) != 0:
            raise StreamError(f"a chat chunk is not of the form asked for: {clip(data)!r}")
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        content = delta.get("content") or ""
        ids = choice.get("token_ids") or []
        if not isinstance(reasoning, str) or not isinstance(content, str):
            raise StreamError(f"a delta holds something else than text: {clip(data)!r}")
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise StreamError(f"token_ids holds something else than ids: {clip(data)!r}")
        self.token_ids += ids
        if reasoning:
            self.reasoning_pieces.append(Piece(reasoning, 0 if content else len(ids)))
        if content:
            self.content_pieces.append(Piece(content, len(ids)))
        self.num_chunks += bool(reasoning or content)
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.usage = {k: v for k, v in usage.items() if type(v) is int and v >= 0}

    @property
    def is_complete(self) -> bool:
        """Whether the server said why it stopped; a cut connection does not."""
        return self.finish_reason is not None


def clip(text: str) -> str:
    """Return the beginning of a foreign text, fit for an error message."""
    return text if len(text) <= CLIPPED else text[:CLIPPED] + "..."
