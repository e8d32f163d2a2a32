"""The mock upstream: an OpenAI-compatible server over a model that does not exist."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

from openzaya.backends.mock.config import MockConfig
from openzaya.backends.mock.faults import STATUS_FAULTS, FaultPlan
from openzaya.backends.mock.http import Connection, HttpRequest
from openzaya.backends.mock.play import HTML, Play
from openzaya.backends.mock.records import CallRecord, Records
from openzaya.backends.mock.replies import Author, Prompt, limit_of, text_of
from openzaya.backends.mock.slots import Slots
from openzaya.backends.mock.vocabulary import decode, encode
from openzaya.backends.mock.wire import Wire, error_body
from openzaya.core.errors import ConfigError, OpenZayaError, RequestError

BACKLOG = 4096


class MockUpstream:
    """A server for tests of gateways; use it as an async context manager.

        async with MockUpstream(MockConfig(length="lognormal:400:0.6", slots=64)) as mock:
            ... ask mock.url ...
            assert mock.records.in_flight == 0

    Everything runs in the event loop that opened it.
    """

    def __init__(self, config: MockConfig | None = None) -> None:
        """Take the settings."""
        self.config = config or MockConfig()
        self.url = ""
        self.records = Records(self.config.kept_calls, self.config.kept_requests)
        self.slots = Slots(self.config.slots, self.config.priority)
        self._author = Author(self.config)
        self._plan = FaultPlan(self.config.faults, self.config.seed)
        self._opened: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._port = self.config.port
        self._reopening: asyncio.Task[None] | None = None
        self._routes: dict[tuple[str, str], Callable[[HttpRequest], bytes]] = {
            ("GET", "/v1/models"): lambda _: self._models(),
            ("GET", "/health"): lambda _: b'{"status":"ok"}',
            ("GET", "/stats"): lambda _: json.dumps(self.stats()).encode(),
            ("GET", "/calls"): self._calls,
            ("GET", "/requests"): lambda _: json.dumps([*self.records.requests]).encode(),
            ("POST", "/faults"): self._new_faults,
            ("POST", "/reset"): lambda _: self._reset(),
        }
        if self.config.can_tokenize:
            for prefix in ("", "/v1"):
                self._routes["POST", f"{prefix}/tokenize"] = _tokenize
                self._routes["POST", f"{prefix}/detokenize"] = _detokenize

    async def __aenter__(self) -> "MockUpstream":
        """Listen; `url` then says where."""
        await self._listen()
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        self.url = f"http://{host}:{self._port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening and reset every connection."""
        if self._reopening is not None:
            self._reopening.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._opened):
            connection.abort()
        await asyncio.sleep(0)

    def stats(self) -> dict[str, Any]:
        """Return the counters as /stats shows them."""
        return {
            **self.records.to_json(),
            "connections": len(self._opened),
            "active": self.slots.active,
            "peak_active": self.slots.peak_active,
            "queued": self.slots.queued,
            "peak_queued": self.slots.peak_queued,
        }

    def set_faults(self, specs: Sequence[str]) -> None:
        """Play these faults from the next call on; raises ConfigError for an unknown one."""
        self.config = replace(self.config, faults=tuple(specs))
        self._plan = FaultPlan(specs, self.config.seed)

    def refuse(self) -> None:
        """Accept no new connection for `refused_s`."""
        if self._listener is not None and self._reopening is None:
            self._listener.close()
            self._listener = None
            self._reopening = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        await asyncio.sleep(self.config.refused_s * self.config.time_scale)
        await self._listen()
        self._reopening = None

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                lambda: Connection(self._handle, self._opened),
                self.config.host,
                self._port,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.config.host}:{self._port} ({error.strerror}); choose "
                "another --port, or 0 for a free one"
            ) from error
        self._port = self._listener.sockets[0].getsockname()[1]

    def _handle(self, connection: Connection, request: HttpRequest) -> None:
        """Answer one request."""
        self.records.routes[request.path] += 1
        key = self.config.api_key
        if key and request.header("authorization") != f"Bearer {key}":
            connection.answer(401, error_body("the key is wrong", "authentication_error"))
            return
        try:
            is_chat = request.path == "/v1/chat/completions"
            if request.method == "POST" and (is_chat or request.path == "/v1/completions"):
                self._complete(connection, request, is_chat=is_chat)
                return
            route = self._routes.get((request.method, request.path))
            if route is None:
                known = any(path == request.path for _, path in self._routes)
                text = f"there is no {request.method} {request.path}"
                connection.answer(405 if known else 404, error_body(text, "not_found_error"))
                return
            connection.answer(200, route(request))
        except OpenZayaError as error:
            connection.answer(400, error_body(str(error), "invalid_request_error", 400))

    def _complete(self, connection: Connection, request: HttpRequest, *, is_chat: bool) -> None:
        """Play a completion, or its fault."""
        body = _object(request.body)
        prompt = Prompt.of(body, self.config.can_continue)
        seed = body.get("seed")
        record = self.records.open(seed if type(seed) is int else None, prompt.crc)
        fault = self._plan.draw(record.call)
        record.fault = fault
        if fault is not None:
            self.records.faults[fault] += 1
        if self.config.kept_requests:
            self.records.requests.append({"path": request.path, "body": body})
        if fault == "refused" or fault == "html" or fault in STATUS_FAULTS:
            self._refuse(connection, record, str(fault))
            return
        try:
            self._check(body, prompt)
            replies = self._author.replies(body, prompt, record.call, fault)
        except RequestError:
            self.records.close(record, "refused")
            raise
        self.records.prompt_tokens += prompt.num_tokens
        size = prompt.num_tokens
        wire = Wire(self.config, body, replies, record.call, size, is_chat=is_chat, fault=fault)
        Play(self.config, connection, wire, record, self.slots, self.records).enqueue()

    def _refuse(self, connection: Connection, record: CallRecord, fault: str) -> None:
        """Play a fault that needs no reply."""
        self.records.close(record, "faulted")
        if fault == "refused":
            self.refuse()
            connection.abort()
        elif fault == "html":
            connection.answer(200, HTML, kind="text/html")
        else:
            wait = -int(-self.config.retry_after_s // 1)
            headers = f"Retry-After: {wait}\r\n" if fault == "429" else ""
            connection.answer(
                int(fault), error_body("this is the mock's fault", "mock_fault"), headers=headers
            )

    def _check(self, body: dict[str, Any], prompt: Prompt) -> None:
        """Raise RequestError for another model or a request that does not fit the context."""
        asked = body.get("model")
        if asked and asked not in self.config.models:
            raise RequestError(
                f"the model {asked!r} does not exist; choose {', '.join(self.config.models)}"
            )
        if self.config.ids == "sglang" and body.get("stream") and body.get("return_token_ids"):
            raise RequestError("return_token_ids is not supported with streaming")
        limit = limit_of(body)
        room = self.config.context_tokens
        if prompt.num_tokens + (limit if limit < 1 << 31 else 1) > room:
            raise RequestError(
                f"This model's maximum context length is {room} tokens, but {prompt.num_tokens} of "
                f"the prompt and {limit} of the reply were asked for"
            )

    def _models(self) -> bytes:
        entries = [
            {"id": name, "object": "model", "max_model_len": self.config.context_tokens}
            for name in self.config.models
        ]
        return json.dumps({"object": "list", "data": entries}).encode()

    def _calls(self, request: HttpRequest) -> bytes:
        after = parse_qs(request.query).get("after", ["0"])[0]
        first = int(after) if after.isdecimal() else 0
        return json.dumps([c.to_json() for c in self.records.log if c.call > first]).encode()

    def _new_faults(self, request: HttpRequest) -> bytes:
        specs = _object(request.body).get("faults")
        if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
            raise RequestError('the body is not {"faults": ["NAME=PROBABILITY@CALLS", ...]}')
        self.set_faults(specs)
        return json.dumps({"faults": specs}).encode()

    def _reset(self) -> bytes:
        """Begin new books; calls in flight end in the old ones."""
        running = self.records.in_flight
        self.records = Records(self.config.kept_calls, self.config.kept_requests)
        return json.dumps({"still_in_flight": running}).encode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise RequestError("the body is no JSON object")
    return parsed


def _tokenize(request: HttpRequest) -> bytes:
    """Take the form of vLLM and SGLang (prompt or messages) or of llama.cpp (content)."""
    body = _object(request.body)
    told = body.get("prompt", body.get("content"))
    if told is None and isinstance(body.get("messages"), list):
        told = "\n".join(text_of(m.get("content")) for m in body["messages"] if isinstance(m, dict))
    if not isinstance(told, str):
        raise RequestError("the body has neither prompt nor content nor messages")
    ids = encode(told)
    return json.dumps({"tokens": ids, "count": len(ids)}).encode()


def _detokenize(request: HttpRequest) -> bytes:
    ids = _object(request.body).get("tokens")
    try:
        if not isinstance(ids, list) or any(type(i) is not int or i < 0 for i in ids):
            raise TypeError
        text = decode(ids)
    except (IndexError, TypeError):
        raise RequestError("tokens is no list of ids of this model") from None
    return json.dumps({"prompt": text, "content": text, "text": text}).encode()
