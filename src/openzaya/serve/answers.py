"""The bodies of answers and chunks, in the shapes of the OpenAI API."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from openzaya.engine.request import TokenEvent
from openzaya.serve.reply import Delta, Reply
from openzaya.serve.tool_calls import Call
from openzaya.text.tokenizer import TextTokenizer

LEAST_LOGPROB = -9999.0
"""Stands for probability zero, which JSON cannot hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an answer says, and for whom."""

    kind: Literal["chat", "text"]
    """Which of the two routes."""
    model: str
    """The model's name."""
    tokenizer: TextTokenizer
    """Spells tokens."""
    prompts: Sequence[list[int]]
    """Prompt ids of the request."""
    choices_per_prompt: int
    """n."""
    logprobs: bool
    """Whether to tell log-probabilities."""
    token_ids: bool
    """Whether to tell ids."""
    include_usage: bool
    """Whether a stream ends with its usage."""
    id: str
    """Names the answer."""
    created: int
    """Unix time."""

    @staticmethod
    def new_id(kind: str) -> tuple[str, int]:
        """Return a fresh id and the time."""
        prefix = "chatcmpl" if kind == "chat" else "cmpl"
        return f"{prefix}-{uuid4().hex}", int(time.time())

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """Return the answer with all choices."""
        choices = [self._choice(index, reply) for index, reply in enumerate(replies)]
        body = self._frame("chat.completion" if self.kind == "chat" else "text_completion", choices)
        body["usage"] = self.usage(replies)
        if self.token_ids and self.kind == "chat":
            body["prompt_token_ids"] = self.prompts[0]
        return body

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the chunk that begins a choice; plain completions have none."""
        if self.kind == "text":
            return None
        choice = self._piece(index, {"role": "assistant", "content": ""}, None)
        if self.token_ids:
            choice["prompt_token_ids"] = self.prompts[index // self.choices_per_prompt]
        return self._chunk([choice])

    def addition(self, index: int, delta: Delta, num_calls: int) -> dict[str, Any]:
        """Return the chunk that adds to a choice, after `num_calls` calls."""
        said: dict[str, Any] = {}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.content:
            said["content"] = delta.content
        if delta.calls:
            said["tool_calls"] = [
                {"index": num_calls + at, **_call(call)} for at, call in enumerate(delta.calls)
            ]
        choice = self._piece(index, said, None)
        if delta.event is not None:
            self._add_tokens(choice, [delta.event], [delta.text_at])
        return self._chunk([choice])

    def ending(self, index: int, reason: str | None) -> dict[str, Any]:
        """Return the chunk that says why a choice ended."""
        return self._chunk([self._piece(index, {}, reason)])

    def usage_chunk(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """Return the last chunk of a stream, without choices."""
        chunk = self._chunk([])
        chunk["usage"] = self.usage(replies)
        return chunk

    def usage(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """Return the counts of tokens; a prompt counts once, whatever n."""
        prompt = sum(map(len, self.prompts))
        completion = sum(len(reply.events) for reply in replies)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": {
                "reasoning_tokens": sum(reply.num_reasoning for reply in replies)
            },
        }

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        chunk = self._frame(kind, choices)
        if self.include_usage:
            chunk["usage"] = None
        return chunk

    def _piece(self, index: int, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
        if self.kind == "chat":
            return {"index": index, "delta": said, "logprobs": None, "finish_reason": reason}
        text = said.get("content", "")
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def _choice(self, index: int, reply: Reply) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index}
        if self.kind == "chat":
            message: dict[str, Any] = {"role": "assistant", "content": reply.content}
            if reply.reasoning:
                message["reasoning_content"] = reply.reasoning
            if reply.calls:
                message["content"] = reply.content or None
                message["tool_calls"] = [_call(call) for call in reply.calls]
            choice["message"] = message
        else:
            choice["text"] = reply.content
            if self.token_ids:
                choice["prompt_token_ids"] = self.prompts[index // self.choices_per_prompt]
        choice["logprobs"] = None
        choice["finish_reason"] = reply.finish_reason
        self._add_tokens(choice, reply.events, reply.offsets)
        return choice

    def _add_tokens(
        self, choice: dict[str, Any], events: Sequence[TokenEvent], offsets: Sequence[int]
    ) -> None:
        if self.token_ids:
            choice["token_ids"] = [event.token_id for event in events]
        if not self.logprobs:
            return
        if self.kind == "chat":
            choice["logprobs"] = {"content": [self._spelled(event) for event in events]}
            return
        choice["logprobs"] = {
            "tokens": [self._text(event.token_id) for event in events],
            "token_logprobs": [max(event.logprob, LEAST_LOGPROB) for event in events],
            "top_logprobs": [{self._text(t): p for t, p in event.top} for event in events],
            "text_offset": list(offsets),
        }

    def _spelled(self, event: TokenEvent) -> dict[str, Any]:
        return {
            **self._entry(event.token_id, event.logprob),
            "top_logprobs": [self._entry(token, logprob) for token, logprob in event.top],
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self.tokenizer.token_bytes(token)
        return {
            "token": self._text(token),
            "logprob": max(logprob, LEAST_LOGPROB),
            "bytes": list(raw),
        }

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
