"""The server's side of a connection: deadlines for receiving, signals, the listening socket.

uvicorn has no deadline for a request to arrive, and its keep-alive timer starts again with every
byte; both are closed here, below the application.
"""

import asyncio
import math
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from openzaya.core.errors import ConfigError
from openzaya.core.request_id import HEADER, request_id_of
from openzaya.serve.config import ServeConfig
from openzaya.serve.errors import ApiError
from openzaya.serve.guard import MAX_HEADER_BYTES, MAX_URL_BYTES
from openzaya.serve.stream import to_json

KEEP_ALIVE_S = 5
BODY_GRACE_S = 5.0
"""The application answers a late body with 408; the connection is cut a little later."""
EXIT_AT_ONCE = 130
MAX_FILES = 1 << 16
"""Open files that a server asks for; the usual limit is 1024."""


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 whose requests must arrive in time; subclasses carry the deadlines."""

    header_s = 10.0
    body_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase: object = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a header."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in bytes."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Start waiting for the next header."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        super().connection_lost(exc)
        self._cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the shape of all errors."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0][:MAX_URL_BYTES]:
            status = 414
        self._refuse(ApiError(status, msg, code="invalid_http"))

    def _watch(self) -> None:
        """Set the deadline when the request enters another phase."""
        if self.transport.is_closing():
            return
        phase = self.conn.their_state
        if phase is self._phase:
            return
        self._phase = phase
        self._cancel()
        if phase is h11.IDLE:
            self._deadline = self.loop.call_later(self.header_s, self._expire)
        elif phase is h11.SEND_BODY:
            self._deadline = self.loop.call_later(self.body_s + BODY_GRACE_S, self._expire)

    def _expire(self) -> None:
        self._refuse(ApiError(408, "the request did not arrive in time", code="request_timeout"))

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, error: ApiError) -> None:
        """Answer if nothing was answered yet, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = to_json(error.body)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                (HEADER.lower().encode(), request_id_of("").encode()),
            ]
            for event in (
                h11.Response(status_code=error.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn server that drains at the first signal and leaves at the second."""

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        on_ready: Callable[[], None],
        on_drain: Callable[[], None],
    ) -> None:
        deadlines = {"header_s": config.header_s, "body_s": config.body_s}
        self._address = config
        self._failure: BaseException | None = None

        async def remembered(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except BaseException as error:
                if scope["type"] == "lifespan":
                    self._failure = error
                raise

        super().__init__(
            uvicorn.Config(
                remembered,
                http=type("Deadlines", (DeadlineProtocol,), deadlines),
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(config.drain_s),
                h11_max_incomplete_event_size=MAX_HEADER_BYTES + MAX_URL_BYTES,
            )
        )
        self._on_ready = on_ready
        self._on_drain = on_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so.

        Raises what the application's start raised, where uvicorn would only leave the process, and
        ConfigError when another process took the port while this one was loading.
        """
        try:
            await super().startup(sockets)
        except SystemExit:
            if self._failure is None:
                raise
            raise self._failure from None
        except OSError as error:
            raise unheard(self._address, error) from error
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at SIGTERM, SIGINT and SIGHUP; only the main thread gets signals.

        Under nohup SIGHUP stays ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.drain, signal.SIGINT: self.drain}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self.hang_up
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def drain(self) -> None:
        """Stop accepting and finish what runs; a second call ends the process at once."""
        if self.should_exit:
            os._exit(EXIT_AT_ONCE)
        self.should_exit = True
        self._on_drain()

    def hang_up(self) -> None:
        """Drain, as the terminal is closed; kernel and shell may both say so, so never at once."""
        if not self.should_exit:
            self.drain()


def allow_files() -> None:
    """Take as many open files as the system lets us have: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(config: ServeConfig) -> socket.socket:
    """Return the listening socket. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on and every answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host.strip("[]"), config.port))
    except OSError as error:
        listener.close()
        raise unheard(config, error) from error
    listener.setblocking(False)
    return listener


def unheard(config: ServeConfig, error: OSError) -> ConfigError:
    """Return the error for an address that cannot be had."""
    return ConfigError(
        f"cannot listen on {config.host}:{config.port}: {error.strerror or error}; choose "
        "another --port, or 0 for a free one"
    )
