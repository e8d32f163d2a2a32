"""What a chat stream says, event by event: text, reasoning, ids, usage, and why it ended."""

import json
from array import array
from typing import Any

from openzaya.backends.event_frame import Found, Frames, head_of
from openzaya.backends.sse import StreamError, clip
from openzaya.backends.token_ids import TokenIds
from openzaya.backends.tool_text import ToolCalls
from openzaya.core.records import Watch
from openzaya.text.markers import THINK_CLOSE

MAX_PIECES = 256
"""Pieces of text are joined at this many: one string a token would cost 60 bytes each."""
RING_TOKENS = 8192
"""Pieces whose boundaries are kept: the longest tail of the paper's settings."""
THINK_CLOSED = "\n</think>\n\n"
TEXT_FIELDS = ("reasoning_content", "reasoning", "content")
"""Fields of a delta that hold what the model wrote; servers name the first by either name."""
MAX_ID = (1 << 32) - 1

_scan = json.JSONDecoder().raw_decode


class Part:
    """The text of one field, reasoning or content, and the token boundaries of its end."""

    __slots__ = ("_pieces", "chars", "ids", "size")

    def __init__(self) -> None:
        """Start empty."""
        self._pieces: list[str] = []
        self.chars = array("I")
        """Characters of the last pieces that came with ids."""
        self.ids = array("I")
        """Token ids of each of those pieces."""
        self.size = 0
        """Characters of the whole text."""

    def __bool__(self) -> bool:
        """Whether there is any text."""
        return self.size > 0

    def add(self, text: str, num_ids: int, keeps_bounds: bool) -> None:
        """Take in a piece; only the last `RING_TOKENS` boundaries stay."""
        pieces, size = self._pieces, len(text)
        pieces.append(text)
        self.size += size
        if len(pieces) >= MAX_PIECES:
            pieces[:] = ["".join(pieces)]
        if keeps_bounds:
            self.chars.append(size)
            self.ids.append(num_ids)
            if len(self.ids) >= 2 * RING_TOKENS:
                del self.chars[:-RING_TOKENS], self.ids[:-RING_TOKENS]

    @property
    def text(self) -> str:
        """The text so far."""
        if len(self._pieces) > 1:
            self._pieces[:] = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""


class ChatStream:
    """What a chat stream has said so far; tells a watch of the text as the model wrote it."""

    __slots__ = (
        "_calls",
        "_chars_per_token",
        "_frames",
        "_head",
        "_loose_ids",
        "_pending",
        "_told",
        "_watch",
        "cached_tokens",
        "content",
        "finish_reason",
        "is_done",
        "model",
        "num_chunks",
        "reasoning",
        "reasoning_field",
        "reasoning_tokens",
        "token_ids",
        "usage",
    )

    def __init__(
        self,
        watch: Watch | None = None,
        chars_per_token: float = 0.0,
        frames: Frames | None = None,
    ) -> None:
        """Start before the first event; the ratio counts where a server sends no ids (0: unknown).

        Under load servers put several tokens into an event, so events alone would let a run
        exceed its cap. `frames` are the forms of events that the server sent before.
        """
        self._chars_per_token = chars_per_token
        self._told = 0
        """Tokens that the watch has heard of."""
        self.reasoning = Part()
        self.content = Part()
        self.token_ids = TokenIds()
        """Ids of everything generated, when the server sends them."""
        self.finish_reason: str | None = None
        self.is_done = False
        """Whether the stream ended with its [DONE]."""
        self.model = ""
        """The name under which the server says it answered."""
        self.usage: dict[str, int] = {}
        self.cached_tokens: int | None = None
        """Prompt tokens that the server had computed before, where it tells."""
        self.reasoning_tokens = 0
        """Generated tokens that the usage calls reasoning."""
        self._loose_ids = 0
        """Ids that came before the text that they are a part of: a character may take several."""
        self.num_chunks = 0
        """Deltas with text: about one a token on most servers."""
        self.reasoning_field: str | None = None
        """The field in which reasoning came; None while there was none."""
        self._watch = watch
        self._calls = ToolCalls()
        self._frames = frames or Frames()
        self._head = ""
        """How the events of this stream begin, up to their choices."""
        self._pending: list[str] = []
        """What the watch has not heard yet."""

    @property
    def num_chars(self) -> int:
        """Characters of everything generated."""
        return self.reasoning.size + self.content.size

    @property
    def num_seen(self) -> int:
        """Own count: ids where the server sends them, else deltas, a lower bound."""
        return self.token_ids.size or self.num_chunks

    @property
    def is_complete(self) -> bool:
        """Whether the server said why it stopped; a cut connection does not."""
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        """Everything generated, as the model wrote it."""
        # The server says where thinking ends; a marker that a thought quotes would end it before.
        reasoning, content = self.reasoning.text.replace(THINK_CLOSE, ""), self.content.text
        is_closed = bool(reasoning) and (bool(content) or self.finish_reason == "stop")
        return _mended(f"{reasoning}{THINK_CLOSED}{content}" if is_closed else reasoning + content)

    def feed(self, *events: str) -> None:
        """Take in events that came together; the watch is told of them at once.

        Raises StreamError for anything that is no chat chunk.
        """
        try:
            for data in events:
                found: Found | None = None
                if self._head and data.startswith(self._head):
                    found = self._frames.read(data, len(self._head))
                if found is None:
                    self._take(data)
                else:
                    self._add(*found)
        finally:
            self._tell_pending()

    def _take(self, data: str) -> None:
        """Take in one event of any form."""
        data = data.strip()
        if data == "[DONE]":
            self.is_done = True
            return
        try:
            event, end = _scan(data)
        except (ValueError, RecursionError) as error:
            raise StreamError(f"the stream holds no JSON: {clip(data)!r}") from error
        if end != len(data) or not isinstance(event, dict):
            raise StreamError(f"the stream holds {clip(data)!r}, expected a chat chunk")
        if event.get("error"):
            raise StreamError(f"the server reports an error: {clip(json.dumps(event['error']))}")
        if event.get("usage"):
            self._take_usage(event["usage"])
        if isinstance(event.get("model"), str):
            self.model = event["model"]
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise StreamError(f"a chat chunk has no choices: {clip(data)!r}")
        for choice in choices:
            self._take_choice(choice, data)
        if len(choices) == 1 and not event.get("usage"):
            self._learn(choices[0], data)

    def _take_choice(self, choice: Any, data: str) -> None:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict) or choice.get("index", 0) != 0:
            raise StreamError(f"a chat chunk is not of the form asked for: {clip(data)!r}")
        self._take_text(delta, choice.get("token_ids") or choice.get("response_token_ids"), data)
        if delta.get("tool_calls"):
            self._calls.add(delta["tool_calls"], data)
            self.num_chunks += 1
        finish = choice.get("finish_reason")
        if finish:
            self.finish_reason = str(finish)
            if self._calls:
                self._add("content", self._calls.text(bool(self.content)))
            if finish == "stop" and self.reasoning and not self.content:
                self._pending.append(THINK_CLOSED)

    def _take_text(self, delta: dict[str, Any], ids: Any, data: str) -> None:
        name = "reasoning_content" if delta.get("reasoning_content") else "reasoning"
        reasoning, content = delta.get(name) or "", delta.get("content") or ""
        if not isinstance(reasoning, str) or not isinstance(content, str):
            raise StreamError(f"a delta holds something else than text: {clip(data)!r}")
        told_ids, num_ids = _read_ids(ids, data) if ids else ("", 0)
        if content:
            if reasoning:
                self._add(name, reasoning)
            self._add("content", content, told_ids, num_ids)
        elif reasoning:
            self._add(name, reasoning, told_ids, num_ids)
        elif num_ids:
            self.token_ids.add(told_ids, num_ids)
            self._loose_ids += num_ids

    def _learn(self, choice: Any, data: str) -> None:
        """Expect further events that look like this one, should it hold nothing but text."""
        delta = choice["delta"]
        texts = [name for name in TEXT_FIELDS if delta.get(name)]
        if len(texts) != 1 or delta.get("tool_calls") or choice.get("finish_reason"):
            return
        self._head = head_of(data)
        if self._head:
            has_ids = bool(choice.get("token_ids") or choice.get("response_token_ids"))
            self._frames.learn(data, len(self._head), texts[0], delta[texts[0]], has_ids)

    def _add(self, field: str, text: str, ids: str = "", num_ids: int = 0) -> None:
        """Take in what a delta says in one field, and the ids that came with it."""
        if field == "content":
            part = self.content
            if not part.size and self.reasoning.size:
                self._pending.append(THINK_CLOSED)
                self._tell_pending()
        else:
            part, self.reasoning_field = self.reasoning, field
        if num_ids:
            self.token_ids.add(ids, num_ids)
        part.add(text, num_ids + self._loose_ids, self.token_ids.size > 0)
        self._loose_ids = 0
        self.num_chunks += 1
        self._pending.append(text)
        if THINK_CLOSE in text:
            self._tell_pending()  # what follows the block counts apart from it

    def _tell_pending(self) -> None:
        if not self._pending:
            return
        seen = self.token_ids.size
        if not seen:
            estimate = self.num_chars / self._chars_per_token if self._chars_per_token else 0.0
            seen = max(self.num_chunks, int(estimate))
        seen = max(seen, self._told)
        num_tokens, self._told = seen - self._told, seen
        text = "".join(self._pending)
        self._pending.clear()
        if self._watch is not None:
            self._watch.add(text, num_tokens)

    def _take_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        self.usage = {k: v for k, v in usage.items() if type(v) is int and v >= 0}
        cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
        if cached is not None:
            self.cached_tokens = cached
        thought = _detail(usage, "completion_tokens_details", "reasoning_tokens")
        self.reasoning_tokens = thought or 0


def _detail(usage: dict[str, Any], table: str, name: str) -> int | None:
    """Return a count within a usage; None where it does not tell."""
    details = usage.get(table)
    count = details.get(name) if isinstance(details, dict) else None
    return count if type(count) is int and count >= 0 else None


def _mended(text: str) -> str:
    """Return a text that UTF-8 can hold.

    Some servers escape a character in two halves, even in two events: halves that meet are joined,
    a lone one becomes the replacement character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _read_ids(ids: Any, data: str) -> tuple[str, int]:
    """Return ids as the inside of a JSON list, and their number. Raises StreamError."""
    # Types as a set: a tenth of a look at every id.
    is_list = isinstance(ids, list) and set(map(type, ids)) <= {int}
    if not is_list or min(ids) < 0 or max(ids) > MAX_ID:
        raise StreamError(f"token_ids holds something else than ids: {clip(data)!r}")
    return ",".join(map(str, ids)), len(ids)
