"""An OpenAI-compatible server over loopback that plays faults on demand.

Tokens are words. Every chat call takes the next fault of `faults`, then plays `good`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Fault = Callable[["Mock", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
DONE = b"data: [DONE]\n\n"


def chunk(model: str, finish: str | None = None, **delta: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": model, "choices": [choice]}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


async def stream(request: web.Request, *parts: bytes) -> web.StreamResponse:
    """Send the parts as they are, then close."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for part in parts:
        await response.write(part)
        await asyncio.sleep(0)
    return response


@dataclass
class Mock:
    """What the server does, and what it saw."""

    reasoning: str = "first second third"
    content: str = "the answer"
    field_name: str = "reasoning_content"
    models: list[str] = field(default_factory=lambda: ["tiny"])
    max_model_len: int | None = None
    knows_ids: bool = False
    can_tokenize: bool = False
    usage_factor: float = 1.0
    hidden: int = 0
    tells: bool = False
    models_moved_to: str = ""
    sends_usage: bool = True
    finish: str = "stop"
    faults: list[Fault] = field(default_factory=list)
    delay_s: float = 0.0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    in_flight: int = 0
    peak_in_flight: int = 0
    aborted: int = 0

    @property
    def streamed(self) -> list[dict[str, Any]]:
        """The bodies of streamed calls: all but a probe's small questions."""
        return [body for body in self.bodies if body.get("stream")]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            fault = self.faults.pop(0) if self.faults else good
            return await fault(self, request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1

    def events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunks of a sound reply, cut at max_tokens."""
        model = body["model"]
        words = [(self.field_name, w) for w in self.reasoning.split()]
        words += [("content", w) for w in self.content.split()]
        kept = words[: body["max_tokens"]]
        chunks = []
        for number, (name, word) in enumerate(kept):
            first = number == 0 or kept[number - 1][0] != name
            made = chunk(model, **{name: word if first else " " + word})
            if self.knows_ids and body.get("return_token_ids"):
                made["choices"][0]["token_ids"] = [100 + number]
            chunks.append(made)
        finish = self.finish if len(kept) == len(words) else "length"
        chunks.append(chunk(model, finish))
        if self.sends_usage:
            told = int(len(kept) * self.usage_factor) + self.hidden
            usage = {"prompt_tokens": 7, "completion_tokens": told}
            if self.tells:
                usage["completion_tokens_details"] = {"reasoning_tokens": self.hidden}
            chunks.append({"model": model, "choices": [], "usage": usage})
        return chunks

    async def list_models(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        if self.models_moved_to:
            return web.Response(status=308, headers={"Location": self.models_moved_to})
        entries = [{"id": name, "max_model_len": self.max_model_len} for name in self.models]
        return web.json_response({"data": entries})

    async def tokenize(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        text = (await request.json())["prompt"]
        self.vocabulary = text.split()
        return web.json_response({"tokens": list(range(len(self.vocabulary)))})

    async def detokenize(self, request: web.Request) -> web.Response:
        ids = (await request.json())["tokens"]
        return web.json_response({"prompt": " ".join(self.vocabulary[i] for i in ids)})


async def good(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await stream(request, *map(event, mock.events(body)), DONE)


def status(code: int, text: str = "no", **headers: str) -> Fault:
    async def play(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=text, headers=names, content_type="text/html")

    return play


def raw(*parts: bytes) -> Fault:
    """Send exactly these bytes as the stream."""

    async def play(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, *parts)

    return play


def first_events(count: int, *more: bytes, hang: bool = False, reset: bool = False) -> Fault:
    """Send the first events of a sound reply, then something else, then end, hang or reset."""

    async def play(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request, *map(event, mock.events(body)[:count]), *more)
        if hang:
            await asyncio.sleep(60)
        if reset and request.transport is not None:
            request.transport.abort()
        return response

    return play


async def silence(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Never answer at all."""
    await asyncio.sleep(60)
    raise AssertionError("nobody waits that long")


async def keep_alive(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Send comments for ever, and never a token."""
    response = await stream(request)
    while True:
        await response.write(b": ping\n\n")
        await asyncio.sleep(0.01)


async def drip(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Send a token now and then, for ever."""
    response = await stream(request)
    while True:
        await response.write(event(chunk(body["model"], content="x ")))
        await asyncio.sleep(0.02)


async def endless(mock: Mock, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Ignore max_tokens."""
    response = await stream(request)
    while True:
        await response.write(event(chunk(body["model"], content="x ")))
        await asyncio.sleep(0)


@asynccontextmanager
async def serve(mock: Mock) -> AsyncIterator[Mock]:
    """Run the server on a free port of the loopback interface."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", mock.chat)
    app.router.add_get("/v1/models", mock.list_models)
    if mock.can_tokenize:
        app.router.add_post("/tokenize", mock.tokenize)
        app.router.add_post("/detokenize", mock.detokenize)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    mock.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield mock
    finally:
        await runner.cleanup()
