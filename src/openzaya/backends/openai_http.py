"""A sampler over any OpenAI-compatible server, through /v1/chat/completions with streaming."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random
from types import TracebackType
from typing import Any

import aiohttp

from openzaya.backends.gate import Gate
from openzaya.backends.http_server import (
    PROBE_S,
    HttpConfig,
    Server,
    is_same_model,
    read_at_most,
    retry_after_s,
    says_too_long,
)
from openzaya.backends.sse import ChatStream, StreamError, clip, events
from openzaya.backends.tails_http import TailCutter
from openzaya.core.errors import ContextLengthError, UpstreamError
from openzaya.core.protocols import Tokenizer
from openzaya.core.records import Completion, FinishReason, Message, SampleRequest
from openzaya.core.seeding import stream

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
OVERLOADED_STATUS = frozenset({429, 503})
MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 300.0
"""Longest wait that a server may ask for; a longer one is an error."""
CLOSING_S = 5.0
"""Longest wait for usage and [DONE] after the finish reason."""
TOKENS_PER_MESSAGE = 8
"""Estimate of what a chat template adds to a turn."""
OVERRUN_TOKENS = 16
"""A stream this much longer than asked for is cut."""
TOLERATED_MISCOUNT = 0.02

_log = logging.getLogger(__name__)

__all__ = ["HttpConfig", "OpenAISampler"]

Sleep = Callable[[float], Awaitable[None]]


class OpenAISampler:
    """Meets `core.protocols.Sampler`; use it as an async context manager.

    A stream that ends without a finish reason is never taken for a complete answer: it is tried
    again with the same seed. Cancelling a call closes its connection, which stops the generation
    on real servers. `alarms` counts replies whose figures do not agree with what was received.
    """

    retries_itself = True

    def __init__(
        self,
        config: HttpConfig,
        *,
        tokenizer: Tokenizer | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Keep the settings; the connection opens with the context manager."""
        self.config = config
        self._server = Server(config)
        self._where = self._server.base
        self.alarms = 0
        self._sleep = sleep
        self._gate = Gate(config.max_in_flight)
        self._tails = TailCutter(tokenizer)
        self._sends_ids = False
        self._can_tokenize = False

    async def __aenter__(self) -> "OpenAISampler":
        """Open the connection pool, find the model's name and what the server can do.

        Raises UpstreamError when the server cannot be reached or does not name one model.
        """
        try:
            await self._server.open()
            if self.config.probe:
                self._can_tokenize = await self._server.cut_tail("probe probe", 1) is not None
                self._sends_ids = await self._probe_ids()
        except BaseException:
            await self._server.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self._server.close()

    @property
    def context_tokens(self) -> int | None:
        """The model's context, where the server tells it."""
        return self._server.context_tokens

    @property
    def tail_method(self) -> str:
        """How the last tail was cut; approximate methods say so."""
        return self._tails.method

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the prompt's length, an estimate where no local tokenizer is known."""
        return sum(self._tails.count(m.content) + TOKENS_PER_MESSAGE for m in messages)

    def last_tokens(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`, by the best means without a call."""
        return self._tails.last_tokens(text, count)

    async def cut_tail(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`; asks the server when no ids came with it."""
        exact = self._tails.by_ids(text, count)
        if exact is None and self._can_tokenize and text:
            exact = await self._server.cut_tail(text, count)
            if exact is not None:
                self._tails.method = "exact (the server's /tokenize)"
        return self._tails.last_tokens(text, count) if exact is None else exact

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion, after retries with growing random waits if need be.

        Raises ContextLengthError when the server says the prompt is too long, UpstreamError when
        all tries failed; the message names the URL and quotes what came back.
        """
        async with self._gate.place(request.priority):
            rng = stream(request.seed, "retry")
            for attempt in range(1, self.config.max_attempts + 1):
                try:
                    reply = await self._call(request)
                except _RetryLaterError as error:
                    if attempt == self.config.max_attempts:
                        raise UpstreamError(
                            f"{self._where} failed {attempt} times, the last time with: {error}; "
                            "check the address, that the server runs, and its log"
                        ) from error
                    await self._sleep(max(error.wait_s, self._wait(attempt, rng)))
                else:
                    self._gate.grow()
                    return self._completion(reply, request)
        raise AssertionError("max_attempts is at least 1")

    def _wait(self, attempt: int, rng: Random) -> float:
        mean_s = min(MAX_WAIT_S, self.config.retry_base_s * (1 << (attempt - 1)))
        return mean_s * rng.uniform(0.5, 1.5)

    async def _call(self, request: SampleRequest) -> ChatStream:
        """Do one call. Raises _RetryLaterError for what another try may cure."""
        state = ChatStream()
        try:
            await self._read(request, state)
        except (aiohttp.ClientError, TimeoutError, StreamError) as error:
            # Once the reason to stop is known, a missing [DONE] loses nothing.
            if isinstance(error, StreamError) or not state.is_complete:
                reason = self._server.clean(str(error)) or "no token in time"
                raise _RetryLaterError(f"{type(error).__name__}: {reason}") from error
        if not state.is_complete:
            raise _RetryLaterError("the stream was cut before it said why it stopped")
        if state.finish_reason in ("abort", "error"):
            raise _RetryLaterError(f"the server gave up: finish_reason {state.finish_reason!r}")
        if self.config.check_model and not is_same_model(self._server.model, state.model):
            raise UpstreamError(
                f"{self._where} was asked for model {self._server.model!r} and "
                f"answered as {state.model!r}; name the model that you mean with --upstream-model"
            )
        return state

    async def _read(self, request: SampleRequest, state: ChatStream) -> None:
        """Stream one reply into `state`; leaving early closes the connection."""
        clock = asyncio.get_running_loop().time
        begun = renewed = clock()
        url = f"{self._where}/chat/completions"
        async with (
            asyncio.timeout(self.config.first_token_s) as deadline,
            self._server.session.post(
                url, json=self._body(request), allow_redirects=False
            ) as response,
        ):
            await self._check_status(response)
            async for data in events(response.content.iter_any()):
                before = state.num_chunks
                state.feed(data)
                if state.is_done:
                    return
                if state.num_seen > request.max_tokens + OVERRUN_TOKENS:
                    self._alarm(f"it sent more than the {request.max_tokens} tokens asked for")
                    state.finish_reason = "length"
                    return
                if state.is_complete:
                    deadline.reschedule(clock() + CLOSING_S)
                elif state.num_chunks > before and (
                    before == 0 or clock() - renewed > self.config.between_tokens_s / 50
                ):
                    # Renewing the timer for every token would cost a third of the whole reading.
                    renewed = clock()
                    deadline.reschedule(renewed + self.config.between_tokens_s)
                    self._check_speed(state.num_seen, renewed - begun)

    def _body(self, request: SampleRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._server.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % (1 << 31),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._sends_ids:
            body["return_token_ids"] = True
        return body

    def _check_speed(self, num_tokens: int, seconds: float) -> None:
        slow = num_tokens < self.config.min_tokens_per_s * seconds
        if slow and seconds > self.config.slow_after_s:
            raise StreamError(f"only {num_tokens} tokens in {seconds:.0f} s")

    async def _check_status(self, response: aiohttp.ClientResponse) -> None:
        kind = response.headers.get("Content-Type", "")
        if response.status == 200 and "text/event-stream" in kind:
            return
        body = self._server.clean(
            clip((await read_at_most(response, 4096)).decode("utf-8", "replace"))
        )
        if response.status == 200:
            raise _RetryLaterError(f"the answer is {kind or 'untyped'}, not a stream: {body!r}")
        if response.status in OVERLOADED_STATUS:
            self._gate.shrink()
        if response.status in RETRIED_STATUS:
            raise _RetryLaterError(f"HTTP {response.status}: {body!r}", self._asked_wait(response))
        if response.status in (400, 413) and says_too_long(body):
            raise ContextLengthError(
                f"{self._where} refuses the prompt as too long ({body}); shorten the question or "
                "choose a smaller preset"
            )
        raise UpstreamError(
            f"{self._where} answered HTTP {response.status}: {body!r}; check the model name "
            f"{self._server.model!r} and the key in {self.config.api_key_env}"
        )

    def _asked_wait(self, response: aiohttp.ClientResponse) -> float:
        wait_s = retry_after_s(response.headers.get("Retry-After", ""))
        if wait_s > MAX_RETRY_AFTER_S:
            raise UpstreamError(
                f"{self._where} asks to come back in {wait_s:.0f} s, more than the "
                f"{MAX_RETRY_AFTER_S:.0f} s that a run waits; try again then"
            )
        return wait_s

    def _completion(self, state: ChatStream, request: SampleRequest) -> Completion:
        """Join reasoning and content the way the model wrote them, and settle the count."""
        reasoning, content = state.reasoning, state.content
        self._tails.remember(state.reasoning_pieces)
        self._tails.remember(state.content_pieces)
        text = content
        if reasoning:
            is_closed = bool(content) or state.finish_reason == "stop"
            text = reasoning + (f"\n</think>\n\n{content}" if is_closed else "")
        num_tokens = self._count(state, len(reasoning) + len(content), request.max_tokens)
        return Completion(
            text=text,
            num_tokens=num_tokens,
            finish_reason=_finish_reason(state.finish_reason),
            num_prompt_tokens=state.usage.get("prompt_tokens", 0),
            token_ids=tuple(state.token_ids) or None,
            started_in_think=bool(reasoning),
        )

    def _count(self, state: ChatStream, num_characters: int, max_tokens: int) -> int:
        """Return the tokens to bill: own ids, else a plausible usage, else an estimate."""
        told = state.usage.get("completion_tokens")
        own = len(state.token_ids)
        if own:
            if told is not None and abs(told - own) > TOLERATED_MISCOUNT * own:
                self._alarm(f"its usage says {told} tokens, its ids are {own}")
            self._tails.measure(num_characters, own)
            return own
        longest = max_tokens * (1 + TOLERATED_MISCOUNT)
        if told is not None and told <= longest and (told or not num_characters):
            self._tails.measure(num_characters, told)
            return told
        if told is not None:
            self._alarm(f"its usage says {told} tokens for {num_characters} characters")
        estimate = int(num_characters / self._tails.chars_per_token)
        return min(max(state.num_chunks, estimate), max_tokens + OVERRUN_TOKENS)

    def _alarm(self, message: str) -> None:
        """Report a server whose figures cannot be true: every time counted, logged once."""
        self.alarms += 1
        if self.alarms == 1:
            _log.warning("%s does not keep its own count: %s", self._where, message)

    async def _probe_ids(self) -> bool:
        """Say whether the server sends token ids in its stream; costs one token."""
        request = SampleRequest(messages=(Message("user", "Hi"),), max_tokens=1, seed=0)
        self._sends_ids = True
        for attempt in range(1, self.config.max_attempts + 1):
            state = ChatStream()
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._read(request, state)
            except _RetryLaterError as error:
                await self._sleep(max(error.wait_s, self._wait(attempt, stream(0, "probe"))))
            except (aiohttp.ClientError, TimeoutError, UpstreamError):
                return False
            else:
                return bool(state.token_ids)
        return False


class _RetryLaterError(Exception):
    """A failure that another try may cure."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _finish_reason(told: str | None) -> FinishReason:
    """Translate; a filtered reply is an error that is kept, unknown reasons count as a cut."""
    if told in ("stop", "tool_calls"):
        return "stop"
    return "error" if told == "content_filter" else "length"
