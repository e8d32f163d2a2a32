"""Tokens to text as they come, and the events in which text is sent.

The bytes of every token go through an incremental UTF-8 decoder, so a character that several
tokens share appears once, whole, with the last of them.
"""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from openzaya.text.tokenizer import TextTokenizer

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still here\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Detokenizer:
    """The text of one growing sequence of tokens."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """Return the characters that the token completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return a replacement character for a character that never was completed."""
        return self._decoder.decode(b"", final=True)


def to_json(value: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a value as a whole response."""
    return Response(to_json(value), status, headers, media_type="application/json")


def event(value: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Awaitable[None], receive: Receive) -> bool:
    """Finish `work`, or cancel it when the client leaves; say whether it was finished."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        for running in (task, watch):
            running.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class EventStream:
    """A response of server-sent events that ends as soon as the client leaves."""

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        on_end: Callable[[bool], None],
        slow_reader_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`on_end` is called once, with whether the client got everything.

        `headers` are sent besides those of every stream; they hold ASCII.
        """
        self._parts = parts
        own = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self._headers = [*HEADERS, *own]
        self._on_end = on_end
        self._slow_reader_s = slow_reader_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""
        whole = False
        try:
            whole = await unless_gone(self._send_all(send), receive)
        except TimeoutError:
            whole = False  # the client takes nothing: the server closes the connection
        finally:
            self._on_end(whole)

    async def _send_all(self, send: Send) -> None:
        await self._send(
            send, {"type": "http.response.start", "status": 200, "headers": self._headers}
        )
        async for part in self._parts:
            await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Message) -> None:
        """Send one message; it waits while the client's buffer is full."""
        async with asyncio.timeout(self._slow_reader_s):
            await send(message)
