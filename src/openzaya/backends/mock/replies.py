"""What the model that does not exist replies: some thinking, then an answer that may be right.

The same seed and prompt give the same reply.
"""

import json
import re
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol
from zlib import crc32

from openzaya.backends.mock.config import MockConfig
from openzaya.backends.mock.instances import instance
from openzaya.backends.mock.lengths import LengthLaw
from openzaya.backends.mock.vocabulary import CORPUS_TOKENS, Filler, Loop, segment
from openzaya.core.errors import RequestError

CHARS_PER_TOKEN = 5
"""Prompts are not tokenized, that would cost more than all the rest: this is their estimate. A
made-up word is so long, so that a tail has as many tokens in a prompt as where it was generated."""
TOKENS_PER_MESSAGE = 4
_KEY = re.compile(r"\[key: ([^\]\n]+)\]")


class Tokens(Protocol):
    """Something that can be cut between tokens."""

    num_tokens: int

    def text(self, first: int, last: int) -> str:
        """Return the text of tokens `first` up to `last`."""
        ...

    def ids(self, first: int, last: int) -> list[int]:
        """Return those ids."""
        ...


@dataclass(slots=True)
class Reply:
    """One choice."""

    parts: list[tuple[str, Tokens]]
    """Field of the message and what it holds, in order."""
    num_tokens: int
    """Tokens of all parts, after the cut at the limit."""
    finish: str
    """stop, length, tool_calls or content_filter."""
    tool_call: dict[str, str] | None = None
    """Name and arguments of the function to call."""

    def pieces(self, first: int, last: int) -> list[tuple[str, Tokens, int, int]]:
        """Return what tokens `first` up to `last` consist of: field, tokens, and which of them."""
        found, begin = [], 0
        for name, tokens in self.parts:
            end = begin + tokens.num_tokens
            if first < end and begin < last:
                low, high = max(first, begin), min(last, end)
                found.append((name, tokens, low - begin, high - begin))
            begin = end
        return found

    def joined(self, name: str) -> str:
        """Return the whole text of one field."""
        pieces = self.pieces(0, self.num_tokens)
        return "".join(tokens.text(a, b) for field, tokens, a, b in pieces if field == name)

    def token_ids(self) -> list[int]:
        """Return all ids."""
        pieces = self.pieces(0, self.num_tokens)
        return [token for _, tokens, a, b in pieces for token in tokens.ids(a, b)]


def key_of(question: str) -> str:
    """Return the right answer: what stands in `[key: ...]`, else a number that the text decides."""
    told = _KEY.search(question)
    return (
        told[1].strip() if told else str(crc32(question.strip().encode("utf-8", "replace")) % 1000)
    )


def text_of(content: Any) -> str:
    """Return the text of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return ""


class Author:
    """Writes replies."""

    def __init__(self, config: MockConfig) -> None:
        """Take the settings."""
        self._config = config
        self._law = LengthLaw.parse(config.length)
        self._mark = re.compile(config.aggregation_mark)

    def replies(
        self, body: dict[str, Any], prompt: "Prompt", call: int, fault: str | None
    ) -> list[Reply]:
        """Return the choices that answer a request; raises RequestError for one that is no request.

        `body` is that of /v1/chat/completions or /v1/completions; `call` decides for a request
        that brings no seed.
        """
        seed = body.get("seed")
        salt = prompt.crc
        named = seed if isinstance(seed, int) else f"{self._config.seed}/{call}"
        count = 1 if body.get("n") is None else body["n"]
        if type(count) is not int or not 1 <= count <= 128:
            raise RequestError(f"n is {count!r}; choose 1 to 128")
        if fault == "wrong_n":
            count += 1 if count == 1 else -1
        return [
            self._reply(body, prompt, Random(f"{named}/{salt}/{index}"), fault)
            for index in range(count)
        ]

    def _reply(
        self, body: dict[str, Any], prompt: "Prompt", rng: Random, fault: str | None
    ) -> Reply:
        """Write one choice: length first, then what is said within it."""
        limit = limit_of(body)
        length = self._law.draw(rng)
        if fault == "empty":
            return Reply([], 0, "stop")
        if fault == "loop":
            loop = Loop(min(limit, self._config.context_tokens))
            return Reply([("content", loop)], loop.num_tokens, "length")
        answer = self._answer(prompt.last, rng)
        call = self._tool_call(body, prompt.role, rng)
        said = "" if call else _content(body, answer)
        start = rng.randrange(CORPUS_TOKENS)
        if self._config.reasoning == "none" and (call or body.get("response_format")):
            length = 0
        parts = self._parts(length, start, answer, said)
        if prompt.is_answering:
            parts = [("content", segment(said))]
        total = sum(tokens.num_tokens for _, tokens in parts)
        finish = "tool_calls" if call else "stop"
        reply = Reply(parts, total, finish, call)
        _stop_at(reply, body.get("stop"))
        if fault == "content_filter":
            reply.num_tokens, reply.finish = max(1, reply.num_tokens // 2), "content_filter"
        if reply.num_tokens > limit:
            reply.num_tokens, reply.finish = limit, "length"
        if reply.finish != "tool_calls":
            reply.tool_call = None
        return reply

    def _answer(self, prompt: str, rng: Random) -> str:
        """Return a right or a wrong answer."""
        mark = self._mark.search(prompt)
        key = key_of(prompt[: mark.start()] if mark else prompt)
        chance = self._config.aggregation_accuracy if mark else self._config.accuracy
        if rng.random() < chance:
            return key
        wrong = rng.randint(1, self._config.num_wrong)
        return str(int(key) + wrong) if key.isdecimal() else f"{key} {wrong}"

    def _parts(self, length: int, start: int, answer: str, said: str) -> list[tuple[str, Tokens]]:
        """Spread `length` tokens over thinking and answer; what must be said is never left out."""
        content: Tokens = segment(said)
        kind = self._config.reasoning
        if kind == "none":
            content = segment(f"\n{said}") if length else content
            filler = Filler(start, max(0, length - content.num_tokens))
            return [("content", filler), ("content", content)]
        closing = segment(f" so the answer is {answer}.")
        field = "content" if kind == "raw" else kind
        opened, closed = segment("<think>\n"), segment("\n</think>\n\n")
        fixed = closing.num_tokens + content.num_tokens
        if kind == "raw":
            fixed += opened.num_tokens + closed.num_tokens
        middle: list[tuple[str, Tokens]] = [
            (field, Filler(start, max(0, length - fixed))),
            (field, closing),
        ]
        if kind == "raw":
            middle = [(field, opened), *middle, (field, closed)]
        return [*middle, ("content", content)]

    def _tool_call(self, body: dict[str, Any], role: str, rng: Random) -> dict[str, str] | None:
        """Return the function to call: the one that is forced, else one of those offered."""
        tools = body.get("tools")
        choice = body.get("tool_choice", "auto")
        if not isinstance(tools, list) or not tools or choice == "none":
            return None
        if role == "tool":
            return None
        functions = [tool.get("function") or {} for tool in tools if isinstance(tool, dict)]
        if isinstance(choice, dict):
            wanted = (choice.get("function") or {}).get("name")
            functions = [f for f in functions if f.get("name") == wanted]
        elif choice != "required" and rng.random() >= self._config.tool_share:
            return None
        if not functions:
            raise RequestError("tool_choice names none of the tools")
        function = functions[rng.randrange(len(functions))]
        arguments = instance(function.get("parameters") or {}, rng)
        return {"name": str(function.get("name", "")), "arguments": json.dumps(arguments)}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request asks."""

    last: str
    """Text of the last message."""
    role: str
    """Who said it."""
    crc: int
    """CRC-32 of the last message: tells prompts apart."""
    num_tokens: int
    """About how long the whole prompt is."""
    is_answering: bool = False
    """Whether the assistant's turn is open and past its thinking."""

    @staticmethod
    def of(body: dict[str, Any], can_continue: bool = False) -> "Prompt":
        """Read the messages of a chat or the prompt of a completion."""
        messages = body.get("messages")
        if not isinstance(messages, list):
            told = body.get("prompt")
            messages = [{"role": "user", "content": told}]
            if isinstance(told, list) and told and all(type(token) is int for token in told):
                return Prompt("", "user", crc32(repr(told).encode()), len(told))
        if not messages or not all(isinstance(message, dict) for message in messages):
            raise RequestError("messages must be a list of at least one object")
        texts = [text_of(message.get("content")) for message in messages]
        crc = crc32(texts[-1].encode("utf-8", "replace"))
        num_tokens = sum(len(t) // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE for t in texts)
        role = str(messages[-1].get("role"))
        if can_continue and body.get("continue_final_message") and role == "assistant":
            num_tokens -= TOKENS_PER_MESSAGE // 2
            return Prompt((["", *texts])[-2], "user", crc, num_tokens, is_answering(texts[-1]))
        return Prompt(texts[-1], role, crc, num_tokens)


def is_answering(opening: str) -> bool:
    """Say whether a turn that begins like this is past its thinking."""
    return "</think>" in opening


def limit_of(body: dict[str, Any]) -> int:
    """Return the most tokens that a request allows; raises RequestError when it says nonsense."""
    told = [
        body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None
    ]
    if not told:
        return 1 << 31
    if type(told[0]) is not int or told[0] < 1:
        raise RequestError(f"max_tokens is {told[0]!r}; choose at least 1")
    return told[0]


def _content(body: dict[str, Any], answer: str) -> str:
    """Return the answer in the form that the request asks for."""
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        schema = (form.get("json_schema") or {}).get("schema") or {}  # type: ignore[union-attr]
        return json.dumps(instance(schema, Random(answer), answer))
    if kind == "json_object":
        return json.dumps({"answer": answer})
    return f"The answer is \\boxed{{{answer}}}."


def _stop_at(reply: Reply, stop: Any) -> None:
    """Cut the reply before the first stop string in its content."""
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list):
        return
    content = reply.joined("content")
    found = [content.find(s) for s in stops if isinstance(s, str) and s and s in content]
    if not found:
        return
    kept, begin = [], 0
    for name, tokens in reply.parts:
        if name != "content":
            kept.append((name, tokens))
            continue
        text = tokens.text(0, tokens.num_tokens)
        room = min(found) - begin
        if room <= 0:
            break
        kept.append((name, tokens if len(text) <= room else segment(text[:room])))
        begin += len(text)
    reply.parts, reply.finish, reply.tool_call = kept, "stop", None
    reply.num_tokens = sum(tokens.num_tokens for _, tokens in kept)
