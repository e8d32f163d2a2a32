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


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of every event; lines may end in CRLF and data may span several lines.

    A character that is split between chunks is put together again: lines are decoded whole.
    Raises UpstreamError for a line above 1 MiB or one that is not UTF-8.
    """
    pending = b""
    data: list[str] = []
    async for chunk in chunks:
        pending += chunk
        *lines, pending = pending.split(b"\n")
        if len(pending) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise UpstreamError(f"the stream has a line above {MAX_LINE_BYTES} bytes")
        for raw in lines:
            line = _decode(raw.removesuffix(b"\r"))
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []
    if data:
        yield "\n".join(data)


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UpstreamError(f"the stream is not UTF-8 ({error.reason})") from error


@dataclass(slots=True)
class ChatStream:
    """What a chat stream has said so far."""

    reasoning: str = ""
    content: str = ""
    finish_reason: str | None = None
    is_done: bool = False
    """Whether the stream ended with its [DONE]."""
    usage: dict[str, int] = field(default_factory=dict)
    num_chunks: int = 0
    """Deltas with text: about one a token on most servers."""

    def feed(self, data: str) -> None:
        """Take in one event. Raises UpstreamError for anything that is no chat chunk."""
        if data.strip() == "[DONE]":
            self.is_done = True
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise UpstreamError(f"the stream holds no JSON: {clip(data)!r}") from error
        if not isinstance(event, dict):
            raise UpstreamError(f"the stream holds {clip(data)!r}, expected a chat chunk")
        if event.get("error"):
            raise UpstreamError(f"the server reports an error: {clip(json.dumps(event['error']))}")
        self._take_usage(event.get("usage"))
        choices = event.get("choices")
        if choices is None or not isinstance(choices, list):
            raise UpstreamError(f"a chat chunk has no choices: {clip(data)!r}")
        for choice in choices:
            self._take_choice(choice, data)

    def _take_choice(self, choice: Any, data: str) -> None:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict) or choice.get("index", 0) != 0:
            raise UpstreamError(f"a chat chunk is not of the form asked for: {clip(data)!r}")
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        content = delta.get("content") or ""
        if not isinstance(reasoning, str) or not isinstance(content, str):
            raise UpstreamError(f"a delta holds something else than text: {clip(data)!r}")
        self.reasoning += reasoning
        self.content += content
        self.num_chunks += bool(reasoning or content)
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.usage = {k: v for k, v in usage.items() if isinstance(v, int) and v >= 0}

    @property
    def is_complete(self) -> bool:
        """Whether the server said that and why it stopped; a cut connection says neither."""
        return self.finish_reason is not None


def clip(text: str) -> str:
    """Return the beginning of a foreign text, fit for an error message."""
    return text if len(text) <= CLIPPED else text[:CLIPPED] + "..."
