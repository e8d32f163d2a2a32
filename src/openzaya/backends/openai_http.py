"""A sampler over one OpenAI-compatible server, through /v1/chat/completions with streaming."""

import asyncio
from types import TracebackType

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.pool import PoolConfig, Upstreams
from openzaya.backends.run_sampler import RunSampler, Sleep
from openzaya.backends.upstream import Upstream
from openzaya.core.errors import UpstreamError
from openzaya.core.protocols import Tokenizer
from openzaya.core.records import Completion, Message, SampleRequest, Watch

__all__ = ["HttpConfig", "OpenAISampler"]


class OpenAISampler:
    """Meets `core.protocols.WatchedSampler`; use it as an async context manager.

    A pool of one server with one run in it: `backends.pool` says how calls are made, tried again
    and cut. `alarms` counts replies whose figures do not agree with what was received.
    """

    retries_itself = True

    def __init__(
        self,
        config: HttpConfig,
        *,
        tokenizer: Tokenizer | None = None,
        sleep: Sleep = asyncio.sleep,
        probes_all: bool = False,
    ) -> None:
        """Keep the settings; the connections open with the context manager.

        `probes_all` finds out more than what completing chats needs: whether turns are continued.
        """
        self.config = config
        whole = PoolConfig(max_in_flight=config.max_in_flight, job_share=1.0)
        self._pool = Upstreams(
            [config], whole, tokenizer=tokenizer, sleep=sleep, probes_all=probes_all
        )
        self._run: RunSampler | None = None

    async def __aenter__(self) -> "OpenAISampler":
        """Find the model's name and what the server can do.

        Raises UpstreamError when the server cannot be reached or does not name one model.
        """
        await self._pool.__aenter__()
        self._run = self._pool.sampler()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self._pool.__aexit__(kind, error, trace)

    @property
    def upstream(self) -> Upstream:
        """The server: its limit, its circuit, its figures."""
        return self._pool.upstreams[0]

    @property
    def alarms(self) -> int:
        """Replies whose figures do not agree with what was received."""
        return self.upstream.alarms

    @property
    def context_tokens(self) -> int | None:
        """The model's context, where the server tells it."""
        return self._sampler.context_tokens

    @property
    def tail_method(self) -> str:
        """How the last tail was cut; approximate methods say so."""
        return self._sampler.tail_method

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the prompt's length, an estimate where no local tokenizer is known."""
        return self._sampler.count_prompt_tokens(messages)

    def last_tokens(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`, by the best means without a call."""
        return self._sampler.last_tokens(text, count)

    def tail_at_hand(self, text: str, count: int) -> str | None:
        """Return the last `count` tokens of `text` by the ids that came with it; None without."""
        return self._sampler.tail_at_hand(text, count)

    async def cut_tail(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`; asks the server when no ids came with it."""
        return await self._sampler.cut_tail(text, count)

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion, after retries with growing random waits if need be.

        Raises ContextLengthError when the server says the prompt is too long, UpstreamError when
        all tries failed; the message names the URL and quotes what came back.
        """
        return await self._sampler.sample(request)

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, or what there is of it once `watch.cut` is set."""
        return await self._sampler.sample_watched(request, watch)

    @property
    def can_continue(self) -> bool:
        """Whether the server continues a turn that is left open; False where nobody asked it."""
        return self._sampler.can_continue

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        """Complete a turn whose think block begins with `opening`; return what comes after it."""
        return await self._sampler.sample_continuation(request, opening, watch)

    @property
    def _sampler(self) -> RunSampler:
        if self._run is None:
            raise UpstreamError("the sampler is not open; use it with `async with`")
        return self._run
