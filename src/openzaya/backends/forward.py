"""Passing a request through to a server: its bytes come back untouched, as they arrive."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from openzaya.backends.client import Connection, Exchange, StaleConnectionError
from openzaya.backends.faults import CallFault
from openzaya.backends.http_server import MAX_RETRY_AFTER_S, check_coding, retry_after_s
from openzaya.backends.meter import Meter
from openzaya.backends.upstream import Upstream
from openzaya.backends.wire import Head, WireError
from openzaya.core.errors import UpstreamError

MAX_BUFFER_BYTES = 256 * 1024
"""Bytes that wait for a slow reader; then the server is not read either."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """An upstream's answer to a request that is passed through as it is."""

    status: int
    content_type: str
    retry_after: str
    """The upstream's Retry-After header; empty without one."""
    upstream: str
    """Base URL of the server that answers."""
    chunks: AsyncIterator[bytes]
    """The body as it arrives, an error's without the key; raw server-sent events for a stream. It
    raises UpstreamError when the server breaks off."""


class Forward(Exchange):
    """The exchange of one request that is passed through."""

    def __init__(self, upstream: Upstream, meter: Meter) -> None:
        """Prepare for one answer of a server, which `meter` counts."""
        self._upstream = upstream
        self._meter = meter
        self._began = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._news: asyncio.Future[None] | None = None
        self._buffer: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._error: Exception | None = None
        self._has_ended = False
        self._is_paused = False
        self._is_settled = False
        self._connection: Connection | None = None

    async def start(self, path: str, body: Mapping[str, Any]) -> Forwarded:
        """Send the request and wait for the head of the answer.

        Raises CallFault when the server cannot be reached, does not answer in time, or breaks off.
        """
        upstream = self._upstream
        content = {**body, "model": upstream.server.model}
        sent = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        upstream.calls += 1
        try:
            async with asyncio.timeout(upstream.config.first_token_s):
                head = await self._send(path, sent)
        except CallFault as fault:
            self._settle(fault)
            raise
        except TimeoutError:
            silent = CallFault("silent", "no answer in time")
            self._settle(silent)
            raise silent from None
        chunks = self._chunks()
        return Forwarded(
            status=head.status,
            content_type=head.fields.get("content-type", "application/octet-stream"),
            retry_after=head.fields.get("retry-after", ""),
            upstream=upstream.server.base,
            chunks=upstream.server.cleaned(chunks) if head.status >= 400 else chunks,
        )

    def close(self) -> None:
        """Leave; an answer that is not over is aborted."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
            self._upstream.aborted += not self._is_settled
        if not self._is_settled:
            self._is_settled = True
            self._upstream.breaker.abandon()

    def on_head(self, head: Head) -> None:
        """Hand the head to who waits for it, who may look when the whole answer is there."""
        if head.status >= 300:
            self._meter.refuse()
        if head.status >= 500 or head.status == 429:
            wait_s = min(MAX_RETRY_AFTER_S, retry_after_s(head.fields.get("retry-after", "")))
            self._settle(CallFault(f"http_{head.status}", f"HTTP {head.status}", wait_s))
        self._upstream.has_doubt |= head.status == 404
        if not self._head.done():
            self._head.set_result(head)

    def on_body(self, data: bytes) -> None:
        """Keep bytes until they are taken; stop reading when there are too many."""
        self._meter.feed(data)
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > MAX_BUFFER_BYTES and self._connection is not None:
            self._is_paused = True
            self._connection.pause()
        self._wake()

    def on_end(self) -> None:
        """Take note that the answer is complete."""
        self._has_ended = True
        self._connection = None
        self._meter.end()
        if not self._is_settled:
            self._is_settled = True
            self._upstream.good += 1
            self._upstream.breaker.succeed()
            self._upstream.limit.grow()
        self._wake()

    def on_error(self, error: Exception) -> None:
        """Take note that the connection broke."""
        self._connection = None
        self._error = error
        if not self._head.done():
            self._head.set_exception(error)
        self._wake()

    async def _send(self, path: str, sent: bytes) -> Head:
        while True:
            client = self._upstream.server.client
            try:
                self._connection = await client.start("POST", path, sent, self)
                head = await self._head
                check_coding(head)
                return head
            except StaleConnectionError:
                client.drop_idle()
                self._reset()
            except TimeoutError as error:
                raise CallFault("unreachable", "no connection in time") from error
            except (OSError, WireError) as error:
                clean = self._upstream.server.clean(f"{type(error).__name__}: {error}")
                raise CallFault("unreachable", clean) from error

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            if self._buffer:
                data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
                self._buffer.clear()
                self._buffered_bytes = 0
                if self._is_paused and self._connection is not None:
                    self._is_paused = False
                    self._connection.resume()
                yield data
            elif self._has_ended:
                return
            elif self._error is not None:
                self._settle(CallFault("cut", str(self._error)))
                raise UpstreamError(
                    f"{self._upstream.server.base} broke off in the middle of its answer "
                    f"({type(self._error).__name__}); ask again"
                )
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait for news, at most as long as a server may be silent."""
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        timer = loop.call_later(self._upstream.config.first_token_s, self._on_silence)
        try:
            await self._news
        finally:
            timer.cancel()
            self._news = None

    def _on_silence(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self.on_error(TimeoutError("the server is silent"))

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _settle(self, fault: CallFault) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._upstream.settle_fault(fault, self._began)
