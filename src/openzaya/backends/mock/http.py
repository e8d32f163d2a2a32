"""Just enough of an HTTP/1.1 server for the mock: requests in, bytes out, keep-alive.

It serves well-behaved clients over loopback and is not meant to face a network.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MAX_HEAD_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 26
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class BadRequestError(Exception):
    """A request that cannot be read."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request."""

    method: str
    path: str
    query: str
    head: bytes
    """The header lines as they came."""
    body: bytes

    def header(self, name: str) -> str:
        """Return the value of a header; empty when there is none."""
        for line in self.head.split(b"\r\n")[1:]:
            told, _, value = line.partition(b":")
            if told.strip().lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return ""


class Exchange(Protocol):
    """What is answering a request."""

    def client_left(self) -> None:
        """The connection is gone before the answer was whole."""
        ...

    def resume(self) -> None:
        """The client reads again."""
        ...


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after another."""

    def __init__(
        self,
        handle: Callable[["Connection", HttpRequest], None],
        opened: "set[Connection]",
    ) -> None:
        """`handle` answers a request by calling `answer` or `begin_stream`."""
        self._handle = handle
        self._opened = opened
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._is_busy = False
        self._head = b""
        self.exchange: Exchange | None = None
        self.is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the protocol's name
        """Tell whoever is answering."""
        self._opened.discard(self)
        self._transport = None
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            exchange.client_left()

    def data_received(self, data: bytes) -> None:
        """Collect bytes until a request is whole."""
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        """The client does not read fast enough."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self.is_writable = True
        if self.exchange is not None:
            self.exchange.resume()

    def answer(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "application/json",
        headers: str = "",
        promised_bytes: int | None = None,
    ) -> None:
        """Send a whole answer; when `promised_bytes` is more than the body, close after it."""
        length = len(body) if promised_bytes is None else promised_bytes
        head = (
            f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {length}\r\n{headers}\r\n"
        )
        self._write(head.encode("latin-1") + body)
        self._done(must_close=length != len(body) or "Connection: close" in headers)

    def begin_stream(self) -> None:
        """Begin a stream; its head leaves with the first part."""
        self._head = STREAM_HEAD

    def send(self, data: bytes, *, is_last: bool = False) -> None:
        """Send a part of a stream; the last one frees the connection for the next request."""
        framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._write(b"%b%b%b" % (self._head, framed, b"0\r\n\r\n" if is_last else b""))
        self._head = b""
        if is_last:
            self._done()

    def close(self) -> None:
        """Send what there is and close."""
        self.exchange = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        self.exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _done(self, *, must_close: bool = False) -> None:
        self.exchange = None
        self._is_busy = False
        if must_close:
            self.close()
        elif self._buffer and self._transport is not None:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._is_busy or self._transport is None:
            return
        try:
            request = self._take()
        except BadRequestError as error:
            self._buffer.clear()
            text = f'{{"error":{{"message":"{error}","type":"invalid_request_error"}}}}'
            self.answer(error.status, text.encode(), headers="Connection: close\r\n")
            return
        if request is not None:
            self._is_busy = True
            self._handle(self, request)

    def _take(self) -> HttpRequest | None:
        """Cut the next request off the buffer; None while it is not whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequestError(431, "the header is too long")
            return None
        head = bytes(self._buffer[:end])
        lowered = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lowered:
            body, used = _chunked(self._buffer, end + 4)
        else:
            length = _length(lowered)
            used = end + 4 + length
            body = bytes(self._buffer[end + 4 : used]) if len(self._buffer) >= used else None
        if body is None:
            if b"\r\nexpect: 100-continue" in lowered and len(self._buffer) == end + 4:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        del self._buffer[:used]
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            raise BadRequestError(400, "the request line is not METHOD PATH VERSION")
        path, _, query = words[1].partition("?")
        return HttpRequest(words[0], path, query, head, body)


def _length(lowered_head: bytes) -> int:
    begin = lowered_head.find(b"\r\ncontent-length:")
    if begin < 0:
        return 0
    text = lowered_head[begin + 17 :].split(b"\r\n", 1)[0].strip()
    if not text.isdigit():
        raise BadRequestError(400, "the content length is no number")
    if int(text) > MAX_BODY_BYTES:
        raise BadRequestError(413, "the body is too long")
    return int(text)


def _chunked(buffer: bytearray, begin: int) -> tuple[bytes | None, int]:
    """Return the body of chunks and where it ends; None while it is not whole."""
    parts: list[bytes] = []
    position, room = begin, MAX_BODY_BYTES
    while (end := buffer.find(b"\r\n", position)) >= 0:
        try:
            size = int(bytes(buffer[position:end]).split(b";")[0], 16)
        except ValueError:
            raise BadRequestError(400, "the length of a chunk is no number") from None
        room -= size
        if size < 0 or room < 0:
            raise BadRequestError(413, "the body is too long")
        position = end + 2 + size + 2
        if len(buffer) < position:
            return None, 0
        if size == 0:
            return b"".join(parts), position
        parts.append(bytes(buffer[end + 2 : end + 2 + size]))
    return None, 0
