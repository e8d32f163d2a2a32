"""A sampler over any OpenAI-compatible server, through /v1/chat/completions with streaming.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from types import TracebackType

import aiohttp

from openzaya.backends.sse import ChatStream, clip, events
from openzaya.core.errors import ContextLengthError, UpstreamError
from openzaya.core.records import Completion, FinishReason, Message, SampleRequest
from openzaya.core.seeding import stream

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
DEFAULT_CHARS_PER_TOKEN = 3.6
"""English text with a common tokenizer; replaced by what the server's own usage shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpConfig:
    """How to talk to one server."""

    url: str
    """Base URL, with or without /v1."""
    model: str = ""
    """Model name; empty asks the server and takes the only one."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never stored or logged."""
    max_in_flight: int = 64
    """Most calls at the same time."""
    max_attempts: int = 4
    """Tries of one call."""
    first_token_s: float = 600.0
    """Longest wait for the first event: a long prompt must be read first."""
    between_tokens_s: float = 120.0
    """Longest silence inside a stream."""
    retry_base_s: float = 0.5
    """Mean wait before the second try; doubled for each further one, at most 30 s."""


class OpenAISampler:
    """Meets `core.protocols.Sampler`; use it as an async context manager.

    A stream that ends without a finish reason is never taken for a complete answer: it is tried
    again. Cancelling a call closes its connection, which stops the generation on real servers.
    """

    retries_itself = True
    context_tokens: int | None = None

    def __init__(self, config: HttpConfig) -> None:
        """Keep the settings; the connection opens with the context manager."""
        self.config = config
        base = config.url.rstrip("/")
        self.base = base if base.endswith("/v1") else f"{base}/v1"
        self.model = config.model
        self._free = asyncio.PriorityQueue[tuple[int, int, asyncio.Event]]()
        self._in_flight = 0
        self._calls = 0
        self._characters = 0
        self._tokens = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "OpenAISampler":
        """Open the connection pool and find the model's name.

        Raises UpstreamError when the server cannot be reached or does not name one model.
        """
        key = os.environ.get(self.config.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        try:
            if not self.model:
                self.model = await self._only_model()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open connection pool."""
        if self._session is None:
            raise UpstreamError("the sampler is not open; use it with `async with`")
        return self._session

    @property
    def chars_per_token(self) -> float:
        """Characters a token, measured from the server's usage figures."""
        return self._characters / self._tokens if self._tokens else DEFAULT_CHARS_PER_TOKEN

    @property
    def tail_method(self) -> str:
        """How tails are cut: by characters, since a chat server shows no tokens."""
        return f"approximate ({self.chars_per_token:.2f} characters a token)"

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Estimate the prompt's length from its characters."""
        characters = sum(len(m.content) + len(m.reasoning or "") for m in messages)
        return int(characters / self.chars_per_token) + 8 * len(messages)

    def last_tokens(self, text: str, count: int) -> str:
        """Return about the last `count` tokens of `text`."""
        return text[-max(1, int(count * self.chars_per_token)) :] if count > 0 else ""

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion, after retries with growing random waits if need be.

        Raises ContextLengthError when the server says the prompt is too long, UpstreamError when
        all tries failed; the message names the URL and quotes what came back.
        """
        await self._enter(request.priority)
        try:
            return await self._with_retries(request)
        finally:
            self._leave()

    async def _with_retries(self, request: SampleRequest) -> Completion:
        rng = stream(request.seed, "retry")
        for attempt in range(1, self.config.max_attempts + 1):
            try:
                return self._completion(await self._call(request))
            except _RetryLater as error:
                if attempt == self.config.max_attempts:
                    raise UpstreamError(
                        f"{self.base} failed {attempt} times, the last time with: {error}; check "
                        "the server and its log, or try again later"
                    ) from error
                await asyncio.sleep(error.wait_s or self._wait(attempt, rng))
        raise AssertionError("max_attempts is at least 1")

    def _wait(self, attempt: int, rng: Random) -> float:
        return min(30.0, self.config.retry_base_s * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.5)

    async def _call(self, request: SampleRequest) -> ChatStream:
        """Do one call. Raises _RetryLater for what another try may cure."""
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % (1 << 31),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        state = ChatStream()
        try:
            async with self.session.post(f"{self.base}/chat/completions", json=body) as response:
                await self._check_status(response)
                async for data in events(self._chunks(response)):
                    state.feed(data)
                    if state.is_done:
                        break
        except (aiohttp.ClientError, TimeoutError, UpstreamError) as error:
            if isinstance(error, ContextLengthError):
                raise
            raise _RetryLater(f"{type(error).__name__}: {error}") from error
        if not state.is_complete:
            raise _RetryLater("the stream was cut before it said why it stopped")
        return state

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises TimeoutError when it falls silent."""
        limit = self.config.first_token_s
        while True:
            async with asyncio.timeout(limit):
                chunk = await response.content.readany()
            if not chunk:
                return
            yield chunk
            limit = self.config.between_tokens_s

    async def _check_status(self, response: aiohttp.ClientResponse) -> None:
        kind = response.headers.get("Content-Type", "")
        if response.status == 200 and "text/event-stream" in kind:
            return
        body = clip((await response.content.read(4096)).decode("utf-8", "replace"))
        if response.status == 200:
            raise _RetryLater(f"the answer is {kind or 'untyped'}, expected an event stream: {body!r}")
        if response.status in RETRIED_STATUS:
            raise _RetryLater(f"HTTP {response.status}: {body!r}", _retry_after(response))
        if response.status == 400 and "context" in body.lower():
            raise ContextLengthError(
                f"{self.base} refuses the prompt as too long ({body}); shorten the question or "
                "choose a shorter tail"
            )
        raise UpstreamError(
            f"{self.base} answered HTTP {response.status}: {body!r}; check the model name "
            f"{self.model!r} and the key in {self.config.api_key_env}"
        )

    def _completion(self, state: ChatStream) -> Completion:
        started_in_think = bool(state.reasoning)
        closed = bool(state.content) or state.finish_reason == "stop"
        text = state.content
        if started_in_think:
            text = state.reasoning + (f"\n</think>\n\n{state.content}" if closed else "")
        tokens = state.usage.get("completion_tokens", 0)
        if not tokens:
            tokens = max(state.num_chunks, int(len(text) / self.chars_per_token))
        else:
            self._tokens += tokens
            self._characters += len(text)
        reason: FinishReason = "stop" if state.finish_reason == "stop" else "length"
        return Completion(
            text=text,
            num_tokens=tokens,
            finish_reason=reason,
            num_prompt_tokens=state.usage.get("prompt_tokens", 0),
            started_in_think=started_in_think,
        )

    async def _only_model(self) -> str:
        try:
            async with asyncio.timeout(30), self.session.get(f"{self.base}/models") as response:
                body = await response.content.read(1 << 20)
                names = [str(entry["id"]) for entry in json.loads(body)["data"]]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamError(
                f"{self.base} cannot be reached ({type(error).__name__}: {error}); check the "
                "address and that the server runs"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UpstreamError(
                f"{self.base}/models holds no list of models ({clip(body.decode('utf-8', 'replace'))!r}); "
                "is this an OpenAI-compatible server?"
            ) from error
        if len(names) != 1:
            raise UpstreamError(
                f"{self.base} serves {len(names)} models ({', '.join(names[:5])}); name one with "
                "--upstream-model"
            )
        return names[0]

    async def _enter(self, priority: int) -> None:
        """Wait for a free place; the smallest priority goes first, then who came first."""
        self._calls += 1
        if self._in_flight < self.config.max_in_flight:
            self._in_flight += 1
            return
        turn = asyncio.Event()
        self._free.put_nowait((priority, self._calls, turn))
        try:
            await turn.wait()
        except asyncio.CancelledError:
            if turn.is_set():
                self._leave()
            else:
                turn.set()
            raise

    def _leave(self) -> None:
        """Give the place to the next who still waits."""
        while not self._free.empty():
            _, _, turn = self._free.get_nowait()
            if not turn.is_set():
                turn.set()
                return
        self._in_flight -= 1


class _RetryLater(Exception):
    """A failure that another try may cure."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Return the seconds a server asks us to wait, at most a minute; 0 when it does not say."""
    try:
        return min(60.0, max(0.0, float(response.headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0
