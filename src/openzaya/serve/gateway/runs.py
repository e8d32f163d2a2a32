"""The runs of this process: begun, watched by clients, left, cancelled, checkpointed.

A run is one task. Clients join it and leave it; when the last one leaves, the run is cancelled and
with it every call, unless it was asked to go on in the background. The journal keeps what finished,
so the same request with the same idempotency key goes on from there.

Deviation: D-061.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Protocol

from openzaya.core.errors import BusyError, OpenZayaError
from openzaya.serve.errors import ApiError
from openzaya.serve.gateway.answer import extractor
from openzaya.serve.gateway.backend import Backend, RunSampler, Who, Wish
from openzaya.serve.gateway.choice import Choice
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.failures import api_error
from openzaya.serve.gateway.lengths import Lengths
from openzaya.serve.gateway.live_text import LiveText
from openzaya.serve.gateway.metered import Bill
from openzaya.serve.gateway.metrics import GatewayMetrics
from openzaya.serve.gateway.news import News
from openzaya.serve.guard import trace_of
from openzaya.ttc import CandidateDone, Event, MarkovianRSA, Result, RunStarted, StageDone
from openzaya.ttc.journal import Journal, RunSpec
from openzaya.ttc.journal.spec import Begun

log = logging.getLogger("openzaya.gateway")
STOPPED = (
    "the server is shutting down; what was generated is kept: ask again with the same "
    "Idempotency-Key, or `openzaya runs resume {} --model WHERE`"
)


@dataclass(slots=True, kw_only=True)
class LiveRun:
    """One run of this process."""

    id: str
    choice: Choice
    wish: Wish
    who: Who
    seed: int
    number: int
    """Counts up: the smaller one is the older one."""
    bill: Bill
    live: LiveText | None
    """The answer as it grows, where the last stage has one candidate."""
    news: News = field(default_factory=News)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the run with the best so far."""
    num_watchers: int = 0
    result: Result | None = None
    error: ApiError | None = None
    """Why there is no result."""
    stage: int = 0
    num_done: int = 0
    """Candidates of the stage that are complete."""
    num_tokens: int = 0
    """Newly generated tokens so far."""
    recorded_tokens: int = 0
    """Those of them that an earlier process, or an earlier client, paid for."""
    sampler: RunSampler | None = None
    began: float = field(default_factory=monotonic)
    task: "asyncio.Task[None] | None" = None

    @property
    def is_over(self) -> bool:
        """Whether there is a result or a reason why not."""
        return self.result is not None or self.error is not None

    @property
    def line(self) -> str:
        """What a progress line says."""
        config = self.wish.config
        return (
            f"stage {self.stage + 1} of {config.num_stages}: {self.num_done} of "
            f"{config.candidates_at(self.stage)} candidates, "
            f"{self.num_tokens} tokens"
        )

    @property
    def charged_tokens(self) -> int:
        """What is to be paid for: all that `usage` tells, and calls that broke off with the run.

        Tries that a server lost and that were made again, and calls that a run with an answer no
        longer needs, are in neither: its usage names them apart, as `lost`.
        """
        if self.result is not None:
            return self.result.usage.generated - self.recorded_tokens
        broken = self.sampler.broken_tokens if self.sampler is not None else 0
        return self.num_tokens - self.recorded_tokens + broken

    def note(self, event: Event) -> None:
        """Take note of what happened."""
        if isinstance(event, RunStarted):
            self.stage = 0
        elif isinstance(event, CandidateDone):
            self.num_tokens = event.total_tokens
            self.recorded_tokens += event.candidate.num_tokens if event.recorded else 0
            if event.candidate.stage > self.stage:
                self.stage, self.num_done = event.candidate.stage, 0
            self.num_done += 1
        elif isinstance(event, StageDone) and event.stage < self.wish.config.rounds:
            self.stage, self.num_done = event.stage + 1, 0
        self.news.tell()


class RunParts(Protocol):
    """What runs are made with."""

    @property
    def config(self) -> GatewayConfig:
        """What the gateway bears."""
        ...

    @property
    def backend(self) -> Backend:
        """What generates."""
        ...

    @property
    def journal(self) -> Journal:
        """Where runs are kept."""
        ...

    @property
    def metrics(self) -> GatewayMetrics:
        """What is counted."""
        ...

    @property
    def lengths(self) -> Lengths:
        """How long traces are."""
        ...


class Runs:
    """All runs of this process."""

    def __init__(self, parts: RunParts) -> None:
        self.draining = False
        """Whether no new run is taken."""
        self._parts = parts
        self._live: dict[str, LiveRun] = {}
        self._number = 0
        self._ending: asyncio.Task[None] | None = None
        parts.metrics.watch_runs(lambda: len(self._live))

    def find(self, run_id: str) -> LiveRun | None:
        """Return a run of this process, None for one of the past or of another process."""
        return self._live.get(run_id)

    def num_of(self, tenant: str) -> int:
        """Return how many runs a tenant has under way."""
        return sum(run.who.tenant == tenant for run in self._live.values())

    def check_room(self, who: Who) -> None:
        """Raise ApiError 429 when this process, or the key, has all the runs it may have."""
        if self.draining:
            raise ApiError(
                503,
                "the server is shutting down; ask another one",
                code="draining",
                headers={"Retry-After": "5"},
            )
        mine = self.num_of(who.tenant)
        if len(self._live) >= self._parts.config.max_runs or mine >= who.key.allowance.runs:
            raise ApiError(
                429,
                f"{len(self._live)} runs are under way, {mine} of them of this key; wait for one "
                "to end",
                code="too_many_runs",
                headers={"Retry-After": "10"},
            )

    async def begin(
        self, wish: Wish, choice: Choice, who: Who, key: str | None, request_hash: str
    ) -> tuple[Begun, RunSpec]:
        """Record a run, or find the one that an idempotency key names.

        Raises ApiError 409 for a key that was used with another request.
        """
        # A client without a seed does not care; two such requests must not be the same run.
        # 53 bits: clients that keep every number as a double can ask for the same seed again.
        seed = secrets.randbits(53) if wish.seed is None else wish.seed % (1 << 63)
        spec = RunSpec(
            question=wish.conversation.question,
            config=wish.config,
            seed=seed,
            hint=choice.options.hint,
            model=choice.shown,
            preset=choice.preset,
            strategy=choice.strategy,
            tenant=who.tenant,
            key=key,
            request_hash=request_hash,
            sampler={"model": choice.model},
        )
        try:
            return await self._parts.journal.begin(spec), spec
        except OpenZayaError as error:
            raise api_error(error) from None

    def start(
        self, run_id: str, spec: RunSpec, wish: Wish, choice: Choice, **given: Any
    ) -> LiveRun:
        """Start the task of a run that is leased here; `given` is `who` and `bill`."""
        self._number += 1
        is_single = wish.config.candidates_at(wish.config.rounds) == 1
        thinks = getattr(wish.body, "thinks", True)
        run = LiveRun(
            id=run_id,
            choice=choice,
            wish=wish,
            seed=spec.seed,
            number=self._number,
            live=None,
            **given,
        )
        if is_single and wish.stream and wish.tools is None and wish.n == 1:
            run.live = LiveText(run.news.tell, wish.stops, started_in_think=thinks)
        self._live[run_id] = run
        told = {"run": run_id, "model": choice.model, "preset": choice.preset}
        if self._parts.config.log_prompts:
            told["question"] = wish.conversation.question[-1].content
        log.info("run began", extra={**told, "key": run.who.key.name})
        run.task = asyncio.create_task(self._work(run), name=f"run {run_id}")
        return run

    def join(self, run: LiveRun) -> None:
        """Count a client of a run; every `join` needs its `leave`."""
        run.num_watchers += 1

    def leave(self, run: LiveRun) -> None:
        """Count a client that is gone; the last one to leave before the end ends the run."""
        run.num_watchers -= 1
        if not run.num_watchers and not run.is_over and not run.choice.options.background:
            self._parts.metrics.disconnects.inc()
            _end_task(run)

    async def cancel(self, run_id: str) -> bool:
        """End a run, whoever works on it; say whether it still ran."""
        run = self._live.get(run_id)
        was_live = await self._parts.journal.cancel(run_id)
        if run is not None:
            _end_task(run)
        return was_live or run is not None

    def drain_later(self, grace_s: float) -> None:
        """Take no new runs, and end those that have not ended after `grace_s`."""
        if self._ending is None:
            self.draining = True
            self._ending = asyncio.create_task(self._drain(grace_s))

    async def drain(self, grace_s: float) -> None:
        """Give runs `grace_s` to end, then end them; the journal keeps what finished.

        The same request with the same idempotency key goes on from there.
        """
        self.drain_later(grace_s)
        assert self._ending is not None
        await self._ending

    async def _drain(self, grace_s: float) -> None:
        tasks = [run.task for run in self._live.values() if run.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, run: LiveRun) -> None:
        """Do a run; whatever happens, the journal and those who wait learn of it."""
        state = "failed"
        try:
            run.result = await self._solve(run)
            state = "interrupted" if run.result.interrupted else "done"
        except asyncio.CancelledError:
            if not self.draining:
                state = "cancelled"
                run.error = ApiError(499, "the run was cancelled", code="cancelled")
                with suppress(OpenZayaError):
                    await self._parts.journal.cancel(run.id)
            else:  # the run may go on: its lease ends with the journal
                state = "interrupted"
                run.error = ApiError(503, STOPPED.format(run.id), code="draining")
            raise
        except OpenZayaError as error:
            run.error = api_error(error, run.id)
            with suppress(OpenZayaError):
                await self._parts.journal.fail(run.id, error)
        except Exception as error:  # noqa: BLE001 - the border: nothing of it may leave
            log.error("a run failed with %s\n%s", type(error).__name__, trace_of(error))
            run.error = ApiError(
                500, f"an internal error; the server's log says where (run {run.id})"
            )
            with suppress(OpenZayaError):
                await self._parts.journal.fail(run.id, error)
        finally:
            self._end(run, state)

    async def _solve(self, run: LiveRun) -> Result:
        """Run the state machine over the backend's calls, from where the journal stands."""
        wish = run.wish
        record = self._parts.journal.listener(run.id, on_lost=lambda: _end_task(run))

        def hear(event: Event) -> None:
            record(event)
            run.note(event)
            if isinstance(event, CandidateDone):
                self._parts.metrics.note(event)
                self._parts.lengths.note(run.choice.model, event)

        machine = MarkovianRSA(wish.config, extract=extractor(wish), only_last=wish.only_last)
        sampler = self._parts.backend.sampler(wish, run.choice.model, run.number, run.who, run.live)
        run.sampler = sampler
        recorded = await self._parts.journal.recorded(run.id)
        async with self._patience(run, sampler):
            result = await machine.run(
                wish.conversation.question,
                sampler,
                seed=run.seed,
                on_event=hear,
                task_hint=run.choice.options.hint,
                stop=run.stop,
                priority=wish.priority,
                recorded=recorded,
                wants_progress=partial(self._parts.journal.is_followed, run.id),
            )
        await self._parts.journal.finish(run.id, result)
        return result

    @asynccontextmanager
    async def _patience(self, run: LiveRun, sampler: RunSampler) -> AsyncIterator[None]:
        """End what runs inside with BusyError when no call has begun within `queue_s`.

        Nobody waits for a run in the background: that one may wait.
        """
        queue_s = self._parts.config.queue_s
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)

        def check() -> None:
            if not sampler.has_begun and not run.choice.options.background:
                limit.reschedule(loop.time())

        timer = loop.call_later(queue_s, check)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise BusyError(
                f"none of the run's calls got a place in {queue_s:g} s; ask again later"
            ) from None
        finally:
            timer.cancel()

    def _end(self, run: LiveRun, state: str) -> None:
        """Forget a run that is over."""
        self._live.pop(run.id, None)
        run.bill(run.charged_tokens, "run")
        if run.error is not None:
            run.error.headers["X-Run-Id"] = run.id
        seconds = monotonic() - run.began
        self._parts.metrics.ended(state, run.choice.preset, seconds)
        log.info(
            "run ended",
            extra={
                "run": run.id,
                "state": state,
                "preset": run.choice.preset,
                "tokens": run.num_tokens,
                "seconds": round(seconds, 3),
                "key": run.who.key.name,
                "code": run.error.code if run.error is not None else None,
            },
        )
        run.news.tell()


def _end_task(run: LiveRun) -> None:
    """Cancel a run's task, and with it all of its calls."""
    if run.task is not None:
        run.task.cancel()
