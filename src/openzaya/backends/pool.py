"""Several upstreams as one: a scheduler over all runs, failover, and plain pass-through."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from openzaya.backends.http_server import HttpConfig
from openzaya.core.protocols import Tokenizer
from openzaya.core.records import Completion, Message, SampleRequest, Watch

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """How calls are spread over the upstreams, and what a run may take."""

    max_in_flight: int = 1024
    """Most calls at the same time over all upstreams and runs."""
    job_share: float = 0.5
    """Largest share of the slots that one run may hold."""
    stage_models: tuple[str, ...] = ()
    """Models (or roles) of stage 0, 1, ...; the last one serves all later stages. Empty: one
    model, the run's, serves every stage."""
    retry_share: float = 0.5
    """Calls that a run may repeat after faults, as a share of the calls it needs."""
    min_retries: int = 4
    """Calls that even a small run may repeat."""
    patience_s: float = 30.0
    """Longest wait for an upstream while none of a model can be reached."""


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
    """The body as it arrives; raw server-sent events for a stream."""


class Upstreams:
    """A pool of OpenAI-compatible servers; use it as an async context manager.

    All runs share one scheduler: weighted fair share by tenant, then the oldest run first. A server
    that fails repeatedly is left alone for a while, and its calls go to another server of the same
    model.
    """

    def __init__(
        self,
        upstreams: Sequence[HttpConfig],
        config: PoolConfig | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Keep the settings; nothing is sent yet. Raises ConfigError for settings that clash."""
        raise NotImplementedError

    async def __aenter__(self) -> "Upstreams":
        """Learn the models and what each server can do.

        A server that cannot be reached is kept and tried again later, as long as one can. Raises
        UpstreamError when none can, and for a server that decodes the model wrongly.
        """
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort what runs and close all connections."""
        raise NotImplementedError

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are served, the default one first."""
        raise NotImplementedError

    def sampler(
        self,
        *,
        model: str = "",
        tenant: str = "",
        weight: float = 1.0,
        stage_models: Sequence[str] | None = None,
    ) -> "RunSampler":
        """Return the sampler of one run; all its calls count as one job of `tenant`.

        `model` is a model's name or a role; empty takes the default. `weight` is the tenant's share
        relative to other tenants. Raises RequestError for a model that is not served.
        """
        raise NotImplementedError

    def forward(
        self,
        body: Mapping[str, Any],
        *,
        path: str = "/chat/completions",
        tenant: str = "",
        weight: float = 1.0,
        priority: int = 0,
    ) -> AbstractAsyncContextManager[Forwarded]:
        """Pass a request through; leaving the context early aborts it at the upstream.

        `body["model"]` chooses the upstream and is replaced by the upstream's own name. Server-sent
        events stream exactly when the body says `"stream": true`. Raises RequestError for a model
        that is not served, UpstreamError when no upstream can be reached; an upstream's error
        answer (4xx, 5xx) is returned as it is.
        """
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """Return plain figures for /health and /metrics.

        `{in_flight, waiting, limit, upstreams: [{url, model, role, state: up|open|half-open|paused,
        limit, in_flight, waiting, calls, ok, failures: {kind: count}, retries, aborted,
        tokens: {generated, prompt, cached}, alarms, capabilities: {...}}]}`.
        """
        raise NotImplementedError


class RunSampler:
    """Completes the calls of one run; meets `core.protocols.WatchedSampler`."""

    retries_itself = True

    @property
    def context_tokens(self) -> int | None:
        """The smallest context among the models of the run, where the servers tell it."""
        raise NotImplementedError

    @property
    def tail_method(self) -> str:
        """How the last tail was cut; approximate methods say so."""
        raise NotImplementedError

    @property
    def calls(self) -> int:
        """Calls that were made so far, repeated ones included."""
        raise NotImplementedError

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the prompt's length, an estimate where no local tokenizer is known."""
        raise NotImplementedError

    def last_tokens(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`, by the best means without a call."""
        raise NotImplementedError

    async def cut_tail(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`; asks the server when no ids came with it."""
        raise NotImplementedError

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion, after retries and failover if need be.

        Raises ContextLengthError, UpstreamError.
        """
        raise NotImplementedError

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, or what there is of it once `watch.cut` is set."""
        raise NotImplementedError
