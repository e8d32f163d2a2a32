"""A lean HTTP/1.1 client for one server: kept connections, pushed bodies, no task per call.

Bodies are pushed to the exchange as they arrive, in the call of the event loop that read them: a
call costs no stream, no queue and one wake-up. aiohttp costs several times as much for the same
calls (bench/upstream.py).
"""

import asyncio
import ssl
from collections.abc import Mapping
from time import monotonic
from urllib.parse import urlsplit

from openzaya.backends.wire import Head, ResponseParser, WireError
from openzaya.core.errors import ConfigError

BODY_LINES = b"Content-Type: application/json\r\nContent-Length: "
IDLE_S = 30.0
"""Kept connections older than this are not used again: servers close them about then."""


class StaleConnectionError(Exception):
    """A kept connection was closed by the server before it answered; ask again at once."""


class Exchange:
    """Who is told of one response. All methods are called from the event loop."""

    def on_head(self, head: Head) -> None:
        """Take the status and the header fields."""
        raise NotImplementedError

    def on_body(self, data: bytes) -> None:
        """Take a stretch of the body."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Take note that the response is complete."""
        raise NotImplementedError

    def on_error(self, error: Exception) -> None:
        """Take note that nothing more will come: WireError, OSError or StaleConnectionError."""
        raise NotImplementedError


class Connection(asyncio.Protocol):
    """One connection; serves one exchange at a time."""

    def __init__(self, client: "Client") -> None:
        """Belong to the client, which gets the connection back when an exchange is over."""
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser: ResponseParser | None = None
        self._is_reused = False
        self._has_answered = False
        self._closing: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    def start(self, request: bytes, exchange: Exchange) -> None:
        """Send a request whose response goes to the exchange."""
        assert self._exchange is None
        assert self._transport is not None
        self._exchange = exchange
        self._has_answered = False
        self._parser = ResponseParser(exchange.on_head, exchange.on_body)
        self._transport.write(request)

    def abort(self) -> None:
        """Close at once; on real servers that ends the generation. The exchange hears nothing."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def abort_after(self, seconds: float) -> None:
        """Close, should the exchange of this moment not end in time."""
        self._closing = asyncio.get_running_loop().call_later(seconds, self.abort)

    def pause(self) -> None:
        """Stop reading: whoever takes the body is slow."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def is_usable(self) -> bool:
        """Whether a new exchange may start here."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Read what came and pass it on."""
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            self.abort()  # nobody asked for this
            return
        self._has_answered = True
        try:
            parser.feed(data)
        except WireError as error:
            self.abort()
            exchange.on_error(error)
            return
        if parser.is_over and self._exchange is not None:
            self._end(exchange, parser.can_stay)

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` follows."""

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the exchange how its response ended."""
        self._client.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None or self._parser is None:
            return
        if self._is_reused and not self._has_answered:
            exchange.on_error(StaleConnectionError())
        elif error is not None:
            exchange.on_error(error)
        else:
            try:
                self._parser.finish()
            except WireError as cut:
                exchange.on_error(cut)
            else:
                exchange.on_end()

    def _end(self, exchange: Exchange, can_stay: bool) -> None:
        self._exchange = self._parser = None  # a kept connection holds no answer
        self._is_reused = True
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if can_stay:
            self._client.keep(self)
        else:
            self.abort()
        exchange.on_end()


class Client:
    """Connections to one server. Use it from one event loop; close it in the end."""

    def __init__(self, base: str, headers: Mapping[str, str], connect_s: float) -> None:
        """Take the base URL, the headers of every request and the longest wait for a connection.

        Raises ConfigError for an address that is none.
        """
        try:
            parts = urlsplit(base)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"the URL is {base!r} ({error}); write it as http://host:port") from (
                error
            )
        if not host or not base.isascii() or any(c.isspace() for c in base):
            raise ConfigError(f"the URL is {base!r}; write it as http://host:port")
        self._is_tls = parts.scheme == "https"
        self._host, self._port = host, port or (443 if self._is_tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls: ssl.SSLContext | None = None
        self._connect_s = connect_s
        self._idle: dict[Connection, None] = {}
        self._all: set[Connection] = set()
        lines = {"Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity", **headers}
        for name, value in lines.items():
            if not value.isascii() or any(ord(c) < 32 for c in value):
                raise ConfigError(f"the header {name} holds characters that no header may hold")
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._heads: dict[tuple[str, str], bytes] = {}
        """By method and path, what every request begins with."""

    async def start(
        self, method: str, path: str, body: bytes | None, exchange: Exchange
    ) -> Connection:
        """Send a request; the exchange is told of the response. Raises OSError, TimeoutError."""
        head = self._heads.get((method, path))
        if head is None:
            text = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._lines}"
            head = self._heads[method, path] = text.encode("ascii")
        if body is None:
            request = head + b"\r\n"
        else:
            request = b"%b%b%d\r\n\r\n%b" % (head, BODY_LINES, len(body), body)
        connection = self._kept() or await self._connect()
        connection.start(request, exchange)
        return connection

    def keep(self, connection: Connection) -> None:
        """Take a connection back for the next request."""
        connection.idle_since = monotonic()
        self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        self._idle.pop(connection, None)
        self._all.discard(connection)

    @property
    def num_connections(self) -> int:
        """Connections that are open, busy or kept."""
        return len(self._all)

    def drop_idle(self) -> None:
        """Close every kept connection: the server seems to have closed them."""
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()

    async def close(self) -> None:
        """Close all connections and wait until they are."""
        for connection in list(self._all):
            connection.abort()
        while self._all:
            await asyncio.sleep(0)

    def _kept(self) -> Connection | None:
        """Return the connection used last, unless the server is likely to have closed it."""
        oldest = monotonic() - IDLE_S
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_usable and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        if self._is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        async with asyncio.timeout(self._connect_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), self._host, self._port, ssl=self._tls
            )
        self._all.add(connection)
        return connection
