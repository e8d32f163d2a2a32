"""One streamed chat completion: its timers, its end, and what a refusal means."""

import asyncio

from openzaya.backends.chat_stream import ChatStream
from openzaya.backends.client import Connection, Exchange, StaleConnectionError
from openzaya.backends.faults import RETRIED_STATUS, CallFault, OtherModelError
from openzaya.backends.http_server import (
    MAX_RETRY_AFTER_S,
    HttpConfig,
    Server,
    check_coding,
    retry_after_s,
    says_other_model,
    says_too_long,
)
from openzaya.backends.sse import EventReader, StreamError, clip
from openzaya.backends.wire import Head
from openzaya.core.errors import ContextLengthError, UpstreamError
from openzaya.core.records import Watch

CLOSING_S = 5.0
"""Longest wait for usage and [DONE] after the finish reason, and for the end after [DONE]."""
OVERRUN_TOKENS = 16
"""A stream this much longer than asked for is cut."""
MAX_ERROR_BYTES = 4096
"""How much of an error page is read."""


class ChatCall(Exchange):
    """The exchange of one call. `done` ends with its stream complete, cut, or with an error.

    Errors: CallFault for what another try may cure, ContextLengthError, UpstreamError.
    """

    def __init__(self, server: Server, config: HttpConfig, max_tokens: int, watch: Watch | None):
        """Prepare for one reply of at most `max_tokens`."""
        self.stream = ChatStream(watch, server.chars_per_token, server.frames)
        self.is_cut = False
        """The caller wished to end it."""
        self.has_overrun = False
        """The server sent more than it was asked for."""
        self.first_token_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._clock = self._loop.time
        self._server = server
        self._config = config
        self._max_tokens = max_tokens
        self._watch = watch
        self._events = EventReader()
        self._head: Head | None = None
        self._error_page = bytearray()
        self._is_stream = False
        self._has_ended = False
        self._connection: Connection | None = None
        self._begun = self._heard = self._clock()
        self._timer: asyncio.TimerHandle

    async def run(self, path: str, body: bytes) -> None:
        """Send the request and wait for its end; leaving early closes the connection."""
        client, config = self._server.client, self._config
        # One timer, which looks at the times when it goes off: renewing it for every token would
        # cost a third of the whole reading.
        first_look_s = min(config.first_token_s, config.between_tokens_s)
        self._timer = self._loop.call_later(first_look_s, self._on_timer)
        try:
            while True:
                connection = await client.start("POST", path, body, self)
                self._connection = None if self._has_ended else connection
                try:
                    return await self.done
                except StaleConnectionError:
                    client.drop_idle()
                    self.done, self._has_ended = self._loop.create_future(), False
        except (OSError, TimeoutError) as error:
            raise CallFault("unreachable", self._server.clean(f"{_named(error)}")) from error
        finally:
            self._timer.cancel()
            self._part()

    def cut(self) -> None:
        """End the call with what there is."""
        if not self.done.done():
            self.is_cut = True
            self.done.set_result(None)

    def on_head(self, head: Head) -> None:
        """Find out whether a stream follows or an explanation."""
        self._head = head
        kind = head.fields.get("content-type", "")
        self._is_stream = head.status == 200 and "text/event-stream" in kind
        try:
            check_coding(head)
        except CallFault as fault:
            self._fail(fault)

    def on_body(self, data: bytes) -> None:
        """Take in events, or the beginning of an error page."""
        if self.done.done():
            return
        if not self._is_stream:
            self._error_page += data[: MAX_ERROR_BYTES - len(self._error_page)]
            if len(self._error_page) >= MAX_ERROR_BYTES:
                self._refuse()
            return
        try:
            self.stream.feed(*self._events.feed(data))
        except StreamError as error:
            self._fail(CallFault("garbage", self._server.clean(f"{_named(error)}")))
        else:
            self._progress()

    def on_end(self) -> None:
        """Take note of the end; a stream that never said why it stopped is not complete."""
        self._has_ended = True
        self._connection = None
        if self.done.done():
            return
        if not self._is_stream:
            self._refuse()
        else:
            self._finish()

    def on_error(self, error: Exception) -> None:
        """Take note that the connection broke."""
        self._has_ended = True
        self._connection = None
        if isinstance(error, StaleConnectionError):
            self._fail(error)
        # Once the reason to stop is known, a missing [DONE] loses nothing.
        elif self.stream.is_complete:
            self._finish()
        else:
            kind = "cut" if isinstance(error, OSError) or self._head is not None else "garbage"
            self._fail(CallFault(kind, self._server.clean(_named(error))))

    def _progress(self) -> None:
        """Look at what new events say of the end, and renew the timers."""
        stream = self.stream
        if stream.num_seen > self._max_tokens + OVERRUN_TOKENS:
            self.has_overrun = True
            stream.finish_reason = "length"
        if stream.is_done or self.has_overrun:
            self._finish()
        elif self._watch is not None and self._watch.cut.is_set():
            self.cut()
        elif stream.is_complete:
            self._restart_timer(CLOSING_S)
        elif stream.num_chunks:
            self._heard = self._clock()
        if stream.num_chunks and self.first_token_at is None:
            self.first_token_at = self._clock()

    def _restart_timer(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock()
        if self.done.done():
            return
        if self.stream.is_complete:
            self._finish()
            return
        if self.first_token_at is None:
            left = self._begun + self._config.first_token_s - now
            if left > 0:
                self._restart_timer(left)
            else:
                self._fail(CallFault("silent", f"no token in {now - self._begun:.1f} s"))
            return
        left = self._heard + self._config.between_tokens_s - now
        if left <= 0:
            self._fail(CallFault("silent", f"no further token in {now - self._heard:.1f} s"))
            return
        elapsed, seen = now - self._begun, self.stream.num_seen
        if elapsed > self._config.slow_after_s and seen < self._config.min_tokens_per_s * elapsed:
            self._fail(CallFault("slow", f"only {seen} tokens in {elapsed:.0f} s"))
            return
        until_slow = self._config.slow_after_s - elapsed
        self._restart_timer(min(left, until_slow + 0.01) if until_slow > 0 else left)

    def _finish(self) -> None:
        """End the call; whether the stream was complete is checked here."""
        reason = self.stream.finish_reason
        if reason is None:
            text = "the stream was cut before it said why it stopped"
            self._fail(CallFault("cut", text))
        elif reason in ("abort", "error"):
            text = f"the server gave up: finish_reason {reason!r}"
            self._fail(CallFault("gave_up", text))
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def _refuse(self) -> None:
        """Turn an answer that is no stream into the right error."""
        assert self._head is not None
        status, page = self._head.status, bytes(self._error_page)
        body = self._server.clean(clip(page.decode("utf-8", "replace")))
        kind = self._head.fields.get("content-type") or "untyped"
        if status == 200:
            text = f"the answer is {clip(kind)}, not a stream: {body!r}"
            self._fail(CallFault("garbage", text))
        elif status in RETRIED_STATUS:
            self._fail(self._retry_later(status, body))
        elif status in (400, 413) and says_too_long(body):
            self._fail(
                ContextLengthError(
                    f"{self._server.base} refuses the prompt as too long ({body}); shorten the "
                    "question or choose a smaller preset"
                )
            )
        elif 300 <= status < 400:
            self._fail(
                UpstreamError(f"{self._server.base} answered {self._server.moved(self._head)}")
            )
        else:
            kind_of = OtherModelError if says_other_model(status, body) else UpstreamError
            self._fail(
                kind_of(
                    f"{self._server.base} answered HTTP {status}: {body!r}; check the model name "
                    f"{self._server.model!r} and the key in {self._config.api_key_env}"
                )
            )

    def _retry_later(self, status: int, body: str) -> Exception:
        assert self._head is not None
        wait_s = retry_after_s(self._head.fields.get("retry-after", ""))
        if wait_s > MAX_RETRY_AFTER_S:
            return UpstreamError(
                f"{self._server.base} asks to come back in {wait_s:.0f} s, more than the "
                f"{MAX_RETRY_AFTER_S:.0f} s that a run waits; try again then"
            )
        return CallFault(f"http_{status}", f"HTTP {status}: {body!r}", wait_s)

    def _part(self) -> None:
        """Leave the connection: close it, unless only the end of the response is missing."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self.stream.is_done and not self.is_cut:
            # After [DONE] the last chunk comes in a packet of its own; then it can be used again.
            connection.abort_after(CLOSING_S)
        else:
            connection.abort()


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
