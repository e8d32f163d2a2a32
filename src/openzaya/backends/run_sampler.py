"""The sampler of one run over a pool: retries, failover, stages, cutting, counting."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random

from openzaya.backends.chat_call import ChatCall
from openzaya.backends.faults import CallFault, OtherModelError
from openzaya.backends.model_pool import ModelPool
from openzaya.backends.scheduler import Job, Scheduler
from openzaya.backends.upstream import Upstream
from openzaya.core.errors import UpstreamError
from openzaya.core.records import Completion, FinishReason, Message, SampleRequest, Served, Watch
from openzaya.core.seeding import stream
from openzaya.text.markers import THINK_OPEN
from openzaya.text.think import all_answer

MAX_WAIT_S = 30.0
MAX_OVERLOADS = 8
"""Tries of a call that meets an overloaded server: those are told to wait, and do."""
TOKENS_PER_MESSAGE = 8
"""Estimate of what a chat template adds to a turn."""

LEFT_OPEN = {"continue_final_message": True, "add_generation_prompt": False}
"""What leaves the last turn open, on servers that can."""

Sleep = Callable[[float], Awaitable[None]]


class RetryBudget:
    """How often a run may repeat calls after faults: bounded by the calls that it needs."""

    def __init__(self, share: float, least: int) -> None:
        """Allow `share` repeated calls for each needed one, and `least` in any case."""
        self._share = share
        self._least = least
        self.needed = 0
        self.repeated = 0

    def take(self) -> bool:
        """Take one repetition, if any is left."""
        if self.repeated >= max(self._least, int(self._share * self.needed)):
            return False
        self.repeated += 1
        return True


class RunSampler:
    """Completes the calls of one run; meets `core.protocols.WatchedSampler`.

    A stream that ends without a finish reason is never taken for a complete answer: it is tried
    again with the same seed, on another server of the model if there is one. Cancelling a call
    takes it out of the queue, or closes its connection, which stops the generation.
    """

    retries_itself = True

    def __init__(
        self,
        scheduler: Scheduler,
        job: Job,
        models: Sequence[ModelPool],
        budget: RetryBudget,
        sleep: Sleep,
    ) -> None:
        """Stage i of the run uses `models[i]`; later stages the last of them."""
        self._scheduler = scheduler
        self._job = job
        self._models = models
        self._budget = budget
        self._sleep = sleep
        self.calls = 0
        """Calls that were made so far, repeated ones included."""

    @property
    def context_tokens(self) -> int | None:
        """The smallest context among the models of the run, where the servers tell it."""
        known = [model.context_tokens for model in self._models]
        return min((tokens for tokens in known if tokens is not None), default=None)

    @property
    def tail_method(self) -> str:
        """How the last tail was cut; approximate methods say so."""
        methods = dict.fromkeys(model.tails.method for model in self._models)
        worst = [method for method in methods if method.startswith("approximate")]
        used = [method for method in methods if "no tail" not in method]
        return (worst or used or list(methods))[0]

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the prompt's length, an estimate where no local tokenizer is known."""
        tails = self._models[0].tails
        return sum(tails.count(m.content) + TOKENS_PER_MESSAGE for m in messages)

    def tail_at_hand(self, text: str, count: int) -> str | None:
        """Return the last `count` tokens of `text` by the ids that came with it; None without."""
        for model in self._models:
            exact = model.tails.by_ids(text, count)
            if exact is not None:
                return exact
        return None

    def last_tokens(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`, by the best means without a call."""
        exact = self.tail_at_hand(text, count)
        return self._models[0].tails.last_tokens(text, count) if exact is None else exact

    async def cut_tail(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`; asks the server when no ids came with it."""
        exact = self.tail_at_hand(text, count)
        if exact is not None:
            return exact
        if text:
            for model in self._models:
                asked = await model.ask_tail(text, count)
                if asked is not None:
                    return asked
        return self.last_tokens(text, count)

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion, after retries and failover if need be.

        Raises ContextLengthError when the server says the prompt is too long, UpstreamError when
        all tries failed; the message names the URL and quotes what came back.
        """
        return await self._complete(_Attempt(request, None))

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, or what there is of it once `watch.cut` is set."""
        attempt = _Attempt(request, watch)
        watch.cut.on_set = attempt.on_cut
        try:
            return await self._complete(attempt)
        finally:
            watch.cut.on_set = None

    @property
    def can_continue(self) -> bool:
        """Whether the servers of the last stage continue a turn that is left open."""
        return self._models[-1].can_continue

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        """Complete a turn whose think block begins with `opening`; return what comes after it.

        Raises what `sample` raises.
        """
        asked = request.fields.get("messages") or [
            {"role": m.role, "content": m.content} for m in request.messages
        ]
        turn = {"role": "assistant", "content": f"{THINK_OPEN}\n{opening}"}
        fields = {**request.fields, "messages": [*asked, turn], **LEFT_OPEN}
        return await self.sample_watched(replace(request, fields=fields), watch)

    async def _complete(self, attempt: "_Attempt") -> Completion:
        request = attempt.request
        model = self._models[min(request.stage, len(self._models) - 1)]
        rng: Random | None = None
        faults = overloads = 0
        self._budget.needed += 1
        while True:
            try:
                call = await self._call(attempt, model)
            except _CutError:
                if attempt.watch is not None:
                    attempt.watch.restart()
                return _nothing()
            except OtherModelError:
                faults += 1
                if not (model.can_do_without(attempt.upstream) and self._budget.take()):
                    raise
            except CallFault as fault:
                overloads += fault.is_overload
                faults += not fault.is_overload
                assert attempt.upstream is not None
                self._check_again(fault, faults, overloads, attempt.upstream)
                attempt.upstream.retries += 1
                rng = rng or stream(request.seed, "retry")
                await attempt.nap(self._sleep, _wait(attempt, faults + overloads, rng))
            else:
                return self._completion(model, call, attempt)

    async def _call(self, attempt: "_Attempt", model: ModelPool) -> ChatCall:
        """Wait for a place and make one call."""
        attempt.raise_if_cut()
        model.refuse_if_dead()
        request = attempt.request
        ticket = self._scheduler.ask(self._job, model.route, request.priority, attempt.upstream)
        try:
            turn = ticket.turn
            upstream = turn.result() if turn.done() else await attempt.wait_for(turn)
            call = attempt.begin(upstream)
            self.calls += 1
            try:
                await upstream.complete(call, request)
                return call
            finally:
                model.settle(upstream)
        finally:
            self._scheduler.leave(ticket)

    def _check_again(self, fault: CallFault, faults: int, overloads: int, at: Upstream) -> None:
        """Raise UpstreamError unless the call may be tried again."""
        tries = faults + overloads
        is_last = faults >= at.config.max_attempts or tries >= MAX_OVERLOADS
        if is_last or (not fault.is_overload and not self._budget.take()):
            why = "" if is_last else ", and the run has used up the calls it may repeat"
            raise UpstreamError(
                f"{at.server.base} failed {tries} times, the last time with: {fault}{why}; check "
                "the address, that the server runs, and its log"
            ) from fault

    def _completion(self, model: ModelPool, call: ChatCall, attempt: "_Attempt") -> Completion:
        """Join reasoning and content the way the model wrote them, and settle the count."""
        upstream, state = attempt.upstream, call.stream
        assert upstream is not None
        model.tails.remember(state.reasoning)
        model.tails.remember(state.content)
        if call.has_overrun:
            sent = f"it sent more than the {attempt.request.max_tokens} tokens asked for"
            model.alarm(upstream, sent)
        num_tokens = model.count(upstream, call, attempt.request.max_tokens)
        upstream.tokens["generated"] += num_tokens
        first = call.first_token_at
        # A server that tells reasoning apart leaves none in the content.
        is_answer = not state.reasoning and upstream.capabilities.reasoning_field is not None
        return Completion(
            text=all_answer(state.text) if is_answer else state.text,
            num_tokens=num_tokens,
            finish_reason="abort" if call.is_cut else _finish_reason(state.finish_reason),
            num_prompt_tokens=state.usage.get("prompt_tokens", 0),
            token_ids=state.token_ids or None,
            started_in_think=bool(state.reasoning),
            served=Served(
                upstream=upstream.server.base,
                model=upstream.server.model,
                attempts=attempt.number,
                queued_s=attempt.queued_s,
                first_token_s=None if first is None else first - attempt.asked_at,
                num_cached_tokens=state.cached_tokens,
            ),
        )


class _CutError(Exception):
    """The caller wished to end the call before it began."""


class _Attempt:
    """One completion on its way: where it is, so that it can be cut there."""

    def __init__(self, request: SampleRequest, watch: Watch | None) -> None:
        self.request = request
        self.watch = watch
        self.upstream: Upstream | None = None
        self.number = 0
        self.asked_at = asyncio.get_running_loop().time()
        self.queued_s = 0.0
        self._turn: asyncio.Future[Upstream] | None = None
        self._call: ChatCall | None = None
        self._nap: asyncio.Task[None] | None = None

    def on_cut(self) -> None:
        """End whatever is waited for."""
        if self._call is not None:
            self._call.cut()
        elif self._turn is not None and not self._turn.done():
            self._turn.set_exception(_CutError())
        elif self._nap is not None:
            self._nap.cancel()

    def is_cut(self) -> bool:
        """Say whether the caller does not want the completion any more."""
        return self.watch is not None and self.watch.cut.is_set()

    def raise_if_cut(self) -> None:
        """Raise when the caller does not want the completion any more."""
        if self.is_cut():
            raise _CutError

    async def wait_for(self, turn: asyncio.Future[Upstream]) -> Upstream:
        """Wait for a place."""
        self._turn = turn
        upstream = await turn
        self.raise_if_cut()
        return upstream

    def begin(self, upstream: Upstream) -> ChatCall:
        """Return the call that leaves now."""
        if self.number == 0:
            self.queued_s = asyncio.get_running_loop().time() - self.asked_at
        elif self.watch is not None:
            self.watch.restart()
        self.number += 1
        self.upstream = upstream
        self._call = upstream.call(self.request, self.watch)
        return self._call

    async def nap(self, sleep: Sleep, seconds: float) -> None:
        """Wait before the next try; a server that asked to be left alone is paused besides."""
        self._call = self._turn = None
        if self.is_cut():
            return
        self._nap = asyncio.ensure_future(_sleep(sleep, seconds))
        try:
            await asyncio.wait({self._nap})
        finally:
            self._nap.cancel()
        self._nap = None


async def _sleep(sleep: Sleep, seconds: float) -> None:
    await sleep(seconds)


def _wait(attempt: _Attempt, tries: int, rng: Random) -> float:
    assert attempt.upstream is not None
    base_s = attempt.upstream.config.retry_base_s
    return min(MAX_WAIT_S, base_s * (1 << (tries - 1))) * rng.uniform(0.5, 1.5)


def _nothing() -> Completion:
    return Completion(text="", num_tokens=0, finish_reason="abort", started_in_think=False)


def _finish_reason(told: str | None) -> FinishReason:
    """Translate; a filtered reply is an error that is kept, unknown reasons count as a cut."""
    if told in ("stop", "tool_calls"):
        return "stop"
    return "error" if told == "content_filter" else "length"
