"""What an answer that is passed through generated: counted as it passes, by the best means.

The rungs, best first: token ids in it, its usage, the server's /tokenize or a local tokenizer over
its text, characters times the ratio that usage has shown, and for a whole answer of which nothing
came the time that the server worked on it. An answer is never changed to be counted.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from openzaya.backends.http_server import MAX_ANSWER_BYTES, is_ratio
from openzaya.backends.model_pool import ModelPool
from openzaya.backends.sse import EventReader, StreamError
from openzaya.backends.upstream import Upstream

Means = Literal["ids", "usage", "tokenizer", "ratio", "time", "none"]
TEXT_FIELDS = ("content", "text", "refusal")
THREAD_BYTES = 256 << 10
"""A longer answer is read beside the event loop."""
_LIMITS = ("max_completion_tokens", "max_tokens")


class Count(NamedTuple):
    """How many tokens were generated, and how that is known."""

    tokens: int
    means: Means


NOTHING = Count(0, "none")


class Meter:
    """Counts one answer. `begin` names who makes it, `feed` takes its bytes, `count` comes last."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        """`body` is the request, by which an answer of which nothing came is judged."""
        self._choices = num_choices(body)
        limits = [body[name] for name in _LIMITS if type(body.get(name)) is int]
        self._most = min(limits) * self._choices if limits else None
        self._is_stream = bool(body.get("stream"))
        self._at: tuple[ModelPool, Upstream] | None = None

    def begin(self, model: ModelPool, upstream: Upstream) -> None:
        """Count from here on for the server that is asked now."""
        self._at = (model, upstream)
        self._began = time.monotonic()
        self._events = EventReader()
        self._whole = bytearray()
        self._texts: dict[int, list[str]] = {}
        self._num_events = 0
        self._num_ids = 0
        self._told: int | None = None
        self._is_torn = False
        self._seconds: float | None = None

    def refuse(self) -> None:
        """Take note that the server refused the request, or could not be reached."""
        self._at = None

    def feed(self, data: bytes) -> None:
        """Take in bytes of the answer."""
        if not self._is_stream:
            self._whole += data[: MAX_ANSWER_BYTES - len(self._whole)]
        elif not self._is_torn:
            try:
                for event in self._events.feed(data):
                    self._take(event)
            except StreamError:
                self._is_torn = True  # what came before counts

    def end(self) -> None:
        """Take note that the answer is complete."""
        if self._at is not None:
            self._seconds = time.monotonic() - self._began

    async def count(self) -> Count:
        """Return how many tokens were generated. Asks the server where it can count text."""
        if self._at is None:
            return NOTHING
        model, upstream = self._at
        if not self._is_stream:
            whole = bytes(self._whole)
            if len(whole) > THREAD_BYTES:
                await asyncio.to_thread(self._take, whole)
            else:
                self._take(whole)
        num_chars = sum(len(piece) for pieces in self._texts.values() for piece in pieces)
        found = self._told_by_answer(model, upstream, num_chars)
        if found is None and num_chars:
            found = await self._told_by_text(model, upstream, num_chars)
        elif found is None:
            found = self._told_by_time(upstream)
        if self._seconds is not None and found.means in ("ids", "usage"):
            upstream.pace.learn(found.tokens / self._choices, self._seconds)
            if is_ratio(num_chars, found.tokens):
                model.tails.measure(num_chars, found.tokens)
        return found

    def _told_by_answer(self, model: ModelPool, upstream: Upstream, num_chars: int) -> Count | None:
        if self._num_ids:
            return Count(self._num_ids, "ids")
        told = self._told
        if told is not None and model.believes(upstream, told, self._most, num_chars):
            return Count(told, "usage")
        return None

    async def _told_by_text(self, model: ModelPool, upstream: Upstream, num_chars: int) -> Count:
        texts = ["".join(pieces) for pieces in self._texts.values()]
        counts = [await model.count_text(upstream, text) for text in texts]
        exact = [count for count in counts if count is not None]
        if len(exact) == len(counts):
            return Count(sum(exact), "tokenizer")
        estimate = int(num_chars / model.tails.chars_per_token)
        return self._bounded(max(self._num_events, estimate), "ratio")

    def _told_by_time(self, upstream: Upstream) -> Count:
        if self._is_stream or self._seconds is not None:
            return NOTHING  # it would have shown what it made
        made = upstream.pace.tokens_in(time.monotonic() - self._began) * self._choices
        return self._bounded(int(made), "time")

    def _bounded(self, tokens: int, means: Means) -> Count:
        return Count(tokens if self._most is None else min(tokens, self._most), means)

    def _take(self, data: str | bytes) -> None:
        """Take in one event, or a whole answer; what is no answer counts nothing."""
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            return
        usage = told.get("usage") if isinstance(told, dict) else None
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if type(tokens) is int and tokens >= 0:
            self._told = tokens
        choices = told.get("choices") if isinstance(told, dict) else None
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        ids = choice.get("token_ids") or choice.get("response_token_ids")
        self._num_ids += len(ids) if isinstance(ids, list) else 0
        said = choice.get("delta") or choice.get("message") or choice
        pieces = _texts_of(said) if isinstance(said, dict) else []
        if pieces:
            index = choice.get("index")
            kept = self._texts.setdefault(index if type(index) is int else 0, [])
            kept += pieces
            self._num_events += 1
            if len(kept) >= 256:  # one string for every token would take ten times the memory
                kept[:] = ["".join(kept)]


def num_choices(body: Mapping[str, Any]) -> int:
    """Return how many choices a request asks for over all of its prompts."""
    n, prompts = body.get("n"), body.get("prompt")
    many = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    num_prompts = len(prompts) if many and isinstance(prompts, list) else 1
    return (n if type(n) is int and n > 0 else 1) * num_prompts


def _texts_of(said: Mapping[str, Any]) -> list[str]:
    """Return everything that the model wrote in a message, a delta or a plain choice."""
    thought = said.get("reasoning_content") or said.get("reasoning")
    found = [thought, *(said.get(name) for name in TEXT_FIELDS)]
    calls = said.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            found += [function.get("name"), function.get("arguments")]
    return [text for text in found if isinstance(text, str) and text]
