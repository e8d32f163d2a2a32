"""Several upstreams as one: a scheduler over all runs, failover, and plain pass-through."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from openzaya.backends.capabilities import probe
from openzaya.backends.faults import CallFault, NoUpstreamError
from openzaya.backends.forward import Forward, Forwarded
from openzaya.backends.http_server import HttpConfig
from openzaya.backends.meter import Meter
from openzaya.backends.model_pool import ModelPool
from openzaya.backends.run_sampler import RetryBudget, RunSampler, Sleep
from openzaya.backends.scheduler import Scheduler, Ticket
from openzaya.backends.upstream import Upstream
from openzaya.core.errors import BusyError, ConfigError, RequestError, UpstreamError
from openzaya.core.protocols import Tokenizer

REVISIT_S = 5.0
"""How often a server that was not there when the pool opened is looked for."""

_log = logging.getLogger(__name__)

__all__ = ["Forwarded", "PoolConfig", "RunSampler", "Upstreams"]


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
    queue_s: float = 60.0
    """Longest wait of a request that is passed through for a place."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.max_in_flight < 1 or not 0 < self.job_share <= 1:
            raise ConfigError(
                f"max_in_flight is {self.max_in_flight} and job_share {self.job_share}; choose at "
                "least 1 call, and a share above 0 and at most 1"
            )
        if self.retry_share < 0 or self.min_retries < 0 or min(self.patience_s, self.queue_s) <= 0:
            raise ConfigError(
                f"retry_share is {self.retry_share}, min_retries {self.min_retries}, patience_s "
                f"{self.patience_s}, queue_s {self.queue_s}; choose at least 0 for the first two "
                "and more than 0 seconds"
            )


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
        probes_all: bool = True,
    ) -> None:
        """Keep the settings; nothing is sent yet.

        `probes_all=False` asks only for what completing chats needs, in one call to each server.
        Raises ConfigError for settings that clash.
        """
        if not upstreams:
            raise ConfigError("no upstream is named; give at least one URL")
        self.config = config or PoolConfig()
        self.upstreams = [Upstream(one) for one in upstreams]
        self._scheduler = Scheduler(self.config.max_in_flight, self.config.job_share)
        self._models: dict[str, ModelPool] = {}
        self._tokenizer = tokenizer
        self._sleep = sleep
        self._probes_all = probes_all
        self._missing: list[Upstream] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Upstreams":
        """Learn the models and what each server can do.

        A server that cannot be reached is looked for again later, as long as one can. Raises
        UpstreamError when none can, and for a server that decodes the model wrongly.
        """
        try:
            missing = await self._open(self.upstreams)
            if missing and not self._models:
                raise next(iter(missing.values()))
            for name in self.config.stage_models:
                self._find(name)
        except BaseException:
            await self._close()
            raise
        if missing:
            for upstream, error in missing.items():
                _log.warning(
                    "%s is not there and will be looked for: %s", upstream.server.base, error
                )
            self._look_for(missing)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort what runs and close all connections."""
        await self._close()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are served, the default one first."""
        return tuple(self._models)

    def context_tokens(self, model: str = "") -> int | None:
        """The context of a model, where its servers tell it. Raises RequestError."""
        return self._find(model).context_tokens

    def sampler(
        self,
        *,
        model: str = "",
        tenant: str = "",
        weight: float = 1.0,
        stage_models: Sequence[str] | None = None,
    ) -> RunSampler:
        """Return the sampler of one run; all its calls count as one job of `tenant`.

        `model` is a model's name or a role; empty takes the default. `stage_models` replaces the
        pool's; both count only when `model` is empty. `weight` is the tenant's share relative to
        other tenants. Raises RequestError for a model that is not served.
        """
        names = self.config.stage_models if stage_models is None else tuple(stage_models)
        if model or not names:
            names = (model,)
        budget = RetryBudget(self.config.retry_share, self.config.min_retries)
        models = [self._find(name) for name in names]
        job = self._scheduler.job(tenant, weight)
        return RunSampler(self._scheduler, job, models, budget, self._sleep)

    @staticmethod
    def meter(body: Mapping[str, Any]) -> Meter:
        """Return what counts the answer to a request that `forward` passes through."""
        return Meter(body)

    @asynccontextmanager
    async def forward(
        self,
        body: Mapping[str, Any],
        *,
        path: str = "/chat/completions",
        tenant: str = "",
        weight: float = 1.0,
        priority: int = 0,
        meter: Meter | None = None,
    ) -> AsyncIterator[Forwarded]:
        """Pass a request through; leaving the context early aborts it at the upstream.

        `body["model"]` chooses the upstream and is replaced by the upstream's own name. Raises
        RequestError for a model that is not served, BusyError when no place comes free within
        `queue_s`, UpstreamError when no upstream can be reached; an upstream's error answer (4xx,
        5xx) is returned as it is. `meter` counts what is generated.
        """
        meter = meter or Meter(body)
        model = self._find(str(body.get("model") or ""))
        job = self._scheduler.job(tenant, weight)
        tried: Upstream | None = None
        for number in range(1 + len(model.upstreams)):
            model.refuse_if_dead()
            ticket = self._scheduler.ask(job, model.route, priority, tried)
            try:
                upstream = await self._turn(ticket)
                meter.begin(model, upstream)
                exchange = Forward(upstream, meter)
                try:
                    try:
                        answer = await exchange.start(f"/v1{path}", body)
                    except CallFault as fault:
                        tried = upstream
                        meter.refuse()
                        if number == len(model.upstreams):
                            raise NoUpstreamError(
                                f"{upstream.server.base} cannot be reached ({fault}); check that "
                                "it runs"
                            ) from fault
                        continue
                    yield answer
                    return
                finally:
                    exchange.close()
                    model.settle(upstream)
            finally:
                self._scheduler.leave(ticket)

    def status(self) -> dict[str, Any]:
        """Return plain figures for /health and /metrics.

        `{state, in_flight, waiting, limit, models: [{model, names, waiting, state,
        context_tokens, tail_method}], upstreams: [...]}`; `upstreams` as in `Upstream.status`, with
        `waiting`: calls that wait for a place at any server of its model.
        `state` is `up`, `degraded` (some server is not there) or `down`.
        """
        models = [
            {
                "model": name,
                "names": sorted(model.names),
                "waiting": len(model.route.waiting),
                "state": "up" if any(u.is_up for u in model.upstreams) else "down",
                "context_tokens": model.context_tokens,
                "tail_method": model.tails.method,
            }
            for name, model in self._models.items()
        ]
        waiting = {name: len(model.route.waiting) for name, model in self._models.items()}
        up = sum(upstream.is_up for upstream in self.upstreams)
        is_whole = up == len(self.upstreams)
        return {
            "state": "up" if is_whole else "degraded" if up else "down",
            "in_flight": self._scheduler.in_flight,
            "waiting": self._scheduler.num_waiting,
            "limit": self._scheduler.max_in_flight,
            "models": models,
            "upstreams": [
                {**upstream.status(), "waiting": waiting.get(upstream.server.model, 0)}
                for upstream in self.upstreams
            ],
        }

    async def _turn(self, ticket: Ticket) -> Upstream:
        """Wait for the place of a request that is passed through. Raises BusyError."""
        try:
            async with asyncio.timeout(self.config.queue_s):
                return await ticket.turn
        except TimeoutError:
            raise BusyError(
                f"no place at a server of {ticket.route.name!r} came free in "
                f"{self.config.queue_s:g} s; ask again later"
            ) from None

    def _find(self, name: str) -> ModelPool:
        """Return the servers of a model. Raises RequestError for one that is not served."""
        if not name:
            return next(iter(self._models.values()))
        for model in self._models.values():
            if name in model.names:
                return model
        known = ", ".join(sorted(set().union(*(m.names for m in self._models.values()))))
        raise RequestError(f"model {name!r} is not served; served are: {known}")

    async def _open(self, upstreams: Sequence[Upstream]) -> dict[Upstream, UpstreamError]:
        """Learn what the servers are; return those that are not there, with the reason."""
        missing: dict[Upstream, UpstreamError] = {}
        found = await asyncio.gather(*map(self._learn, upstreams))
        for upstream, error in zip(upstreams, found, strict=True):
            if error is not None:
                missing[upstream] = error
                upstream.breaker.open()
                upstream.last_fault = str(error)
                continue
            upstream.breaker.release()
            name = upstream.server.model
            if name not in self._models:
                self._models[name] = ModelPool(
                    name, self._scheduler, self.config.patience_s, self._tokenizer, self._doubt
                )
            if upstream not in self._models[name].upstreams:
                self._models[name].upstreams.append(upstream)
        return missing

    async def _learn(self, upstream: Upstream) -> UpstreamError | None:
        server = upstream.server
        try:
            await server.find_model()
            upstream.learn(await probe(server, upstream.config, probes_all=self._probes_all))
        except CallFault as fault:
            return NoUpstreamError(f"{server.base} cannot be reached ({fault}); check that it runs")
        except NoUpstreamError as error:
            return error
        return None

    def _doubt(self, upstream: Upstream) -> None:
        """Have a look at a server that was away, or that knows its model no more."""
        now = asyncio.get_running_loop().time()
        if now - upstream.looked_at >= REVISIT_S and upstream not in self._missing:
            upstream.looked_at = now
            self._begin(self._look(upstream))

    async def _look(self, upstream: Upstream) -> None:
        """Learn a server anew; one that serves something else is left alone and looked for."""
        server = upstream.server
        before = (server.context_tokens, upstream.capabilities)
        try:
            if await self._learn(upstream) is not None:
                return  # it is away again: calls tell
        except UpstreamError as error:
            upstream.last_fault = (
                f"{error}; it is left alone until it serves {server.model!r} again: start it so, "
                "or restart what calls it"
            )
            upstream.breaker.hold()
            _log.warning("%s changed: %s", server.base, upstream.last_fault)
            self._look_for([upstream])
            self._models[server.model].settle(upstream)
            return
        finally:
            upstream.has_doubt = upstream.breaker.has_returned = False
        if before != (server.context_tokens, upstream.capabilities):
            _log.warning(
                "%s came back and can do other things: a context of %s tokens, %s",
                server.base,
                server.context_tokens,
                upstream.capabilities,
            )

    def _look_for(self, missing: Iterable[Upstream]) -> None:
        """Look for servers now and then until they are there."""
        is_searching = bool(self._missing)
        self._missing += missing
        if not is_searching:
            self._begin(self._search())

    async def _search(self) -> None:
        while self._missing:
            await asyncio.sleep(REVISIT_S)
            for upstream in [*self._missing]:
                try:
                    if await self._open([upstream]):
                        continue
                except UpstreamError as error:
                    if str(error) not in upstream.last_fault:
                        _log.warning("a server came that cannot be used: %s", error)
                        upstream.last_fault = str(error)
                    continue
                _log.warning("%s is there", upstream.server.base)
                self._missing.remove(upstream)
            self._scheduler.admit()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for upstream in self.upstreams:
            await upstream.server.close()
