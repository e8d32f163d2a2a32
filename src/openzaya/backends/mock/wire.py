"""Replies in the form of the OpenAI API: events of a stream, or one JSON."""

import json
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from openzaya.backends.mock.config import MockConfig
from openzaya.backends.mock.replies import Reply, Tokens

DONE = b"data: [DONE]\n\n"
OTHER_MODEL = "another-model"


class Wire:
    """How the reply to one request is written."""

    __slots__ = (
        "_head",
        "_ids",
        "_is_chat",
        "_num_prompt_tokens",
        "_shown",
        "body",
        "fault",
        "replies",
        "wants_usage",
    )

    def __init__(
        self,
        config: MockConfig,
        body: dict[str, Any],
        replies: list[Reply],
        call: int,
        num_prompt_tokens: int,
        *,
        is_chat: bool,
        fault: str | None,
    ) -> None:
        """Prepare what all events of the reply share."""
        asked = body.get("model") or config.models[0]
        model = OTHER_MODEL if fault == "wrong_model" else str(asked)
        kind = "chat.completion" if is_chat else "text_completion"
        self.body = body
        self.replies = replies
        self._num_prompt_tokens = num_prompt_tokens
        self.fault = fault
        self._is_chat = is_chat
        at_end = config.ids == "sglang" and bool(body.get("stream"))
        asked_ids = body.get("return_output_ids_in_sglext" if at_end else "return_token_ids")
        self._ids = config.ids if asked_ids else "none"
        self._shown = 1.0 - config.cached_share
        chunk = ".chunk" if is_chat and body.get("stream") else ""
        name = "chatcmpl" if is_chat else "cmpl"
        self._head = (
            f'"id":"{name}-{call}","object":"{kind}{chunk}","created":{int(time.time())},'
            f'"model":{quoted(model)}'
        )
        options = body.get("stream_options")
        wanted = isinstance(options, dict) and bool(options.get("include_usage"))
        self.wants_usage = wanted and fault != "no_usage"

    def tokens(self, first: int, last: int) -> bytes:
        """Return the events of tokens `first` up to `last` of every choice that is that long."""
        events = [
            self._event(index, piece, is_first=first == 0 and position == 0)
            for index, reply in enumerate(self.replies)
            for position, piece in enumerate(reply.pieces(first, min(last, reply.num_tokens)))
        ]
        return "".join(events).encode()

    def ending(self) -> bytes:
        """Return the events that end the stream: tool calls, reasons to stop, usage, [DONE]."""
        events = []
        for index, reply in enumerate(self.replies):
            delta: dict[str, Any] = {}
            if reply.tool_call is not None:
                delta["tool_calls"] = [{"index": 0, **_tool_call(reply.tool_call, index)}]
            choice: dict[str, Any] = {
                "index": index,
                "delta" if self._is_chat else "text": delta if self._is_chat else "",
                "finish_reason": reply.finish,
            }
            events.append(self._wrap(f'"choices":[{json.dumps(choice)}]'))
        if self._ids == "sglang":
            ids = json.dumps([token for reply in self.replies for token in reply.token_ids()])
            events.append(self._wrap(f'"choices":[],"sglext":{{"output_ids":{ids}}}'))
        if self.wants_usage:
            events.append(self._wrap(f'"choices":[],"usage":{json.dumps(self.usage())}'))
        return "".join(events).encode() + DONE

    def usage(self) -> dict[str, Any]:
        """Return the token counts."""
        prompt = self._num_prompt_tokens
        told = sum(reply.num_tokens for reply in self.replies)
        if self.fault == "wrong_count":
            told *= 3
        cached = prompt - int(prompt * self._shown)
        details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": told,
            "total_tokens": prompt + told,
            **details,
        }

    def whole(self) -> bytes:
        """Return the reply as one JSON."""
        choices = [self._choice(index, reply) for index, reply in enumerate(self.replies)]
        usage = "" if self.fault == "no_usage" else f',"usage":{json.dumps(self.usage())}'
        return f'{{{self._head},"choices":{json.dumps(choices)}{usage}}}'.encode()

    def _choice(self, index: int, reply: Reply) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": reply.finish, "logprobs": None}
        if self._ids == "vllm":
            choice["token_ids"] = reply.token_ids()
        elif self._ids == "sglang":
            choice["response_token_ids"] = reply.token_ids()
        if not self._is_chat:
            names = dict.fromkeys(name for name, _ in reply.parts)
            return {**choice, "text": "".join(map(reply.joined, names))}
        message: dict[str, Any] = {"role": "assistant", "content": reply.joined("content") or None}
        for name in ("reasoning_content", "reasoning"):
            if any(field == name for field, _ in reply.parts):
                message[name] = reply.joined(name)
        if reply.tool_call is not None:
            message["tool_calls"] = [_tool_call(reply.tool_call, index)]
        if self.fault == "empty":
            message["content"] = ""
        return {**choice, "message": message}

    def _event(self, index: int, piece: tuple[str, Tokens, int, int], *, is_first: bool) -> str:
        name, tokens, low, high = piece
        text = tokens.text(low, high)
        shown = f',"token_ids":{tokens.ids(low, high)}' if self._ids == "vllm" else ""
        if not self._is_chat:
            said = f'"text":{quoted(text)}'
        else:
            role = '"role":"assistant",' if is_first else ""
            said = f'"delta":{{{role}"{name}":{quoted(text)}}}'
        return self._wrap(f'"choices":[{{"index":{index},{said},"finish_reason":null{shown}}}]')

    def _wrap(self, rest: str) -> str:
        if self.fault == "crlf":
            return f"data: {{\r\ndata: {self._head},\r\ndata: {rest}}}\r\n\r\n"
        return f"data: {{{self._head},{rest}}}\n\n"


def _tool_call(call: dict[str, str], index: int) -> dict[str, Any]:
    return {"id": f"call_{index}", "type": "function", "function": call}


def error_body(message: str, kind: str, code: str | int | None = None) -> bytes:
    """Return an error in OpenAI's form."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()
