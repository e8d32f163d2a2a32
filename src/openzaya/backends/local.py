"""The sampler that runs on our own engine, in this process."""

import asyncio
from asyncio import AbstractEventLoop, wrap_future
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Self

from openzaya.backends.local_text import Follower
from openzaya.backends.placing import cache_bytes
from openzaya.core.errors import ConfigError, EngineError, OpenZayaError
from openzaya.core.records import Completion, Message, SampleRequest, Watch
from openzaya.engine.engine import Engine, context_tokens
from openzaya.engine.passes import load_model
from openzaya.engine.request import OnToken, Output, SamplingParams
from openzaya.model.blocks import BLOCK_TOKENS, blocks_of
from openzaya.model.cache_parts import blocks_within
from openzaya.model.config_keys import FULL
from openzaya.text.chat import ChatTemplate
from openzaya.text.markers import THINK_CLOSE
from openzaya.text.think import all_answer
from openzaya.text.tokenizer import TextTokenizer

KEPT_PROMPTS = 32
"""Prompts whose ids are kept: the candidates of stage 0 all have the same."""


@dataclass(eq=False, slots=True)
class _Ask:
    """A request on its way to the engine."""

    prompt: list[int]
    params: SamplingParams
    priority: int
    on_token: OnToken | None
    future: "Future[Output]"
    request_id: int | None = None


class LocalSampler:
    """Completes conversations with an `Engine`; meets `core.protocols.WatchedSampler`.

    Calls of one moment enter the engine together, so that equal prompts are computed once; smaller
    priorities, older runs, go first.

    One background thread steps the engine while any completion is awaited. Cancelling `sample`
    aborts its generation. Any event loop and any number of them may wait at once. Until `close`,
    the engine belongs to this sampler: nobody else may step it. Usable as a context manager.
    """

    counts_exactly = True

    def __init__(
        self,
        engine: Engine,
        tokenizer: TextTokenizer,
        chat: ChatTemplate,
        *,
        enable_thinking: bool = True,
    ) -> None:
        """Start the stepping thread. `enable_thinking=False` prompts for an answer at once."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._chat = chat
        self._enable_thinking = enable_thinking
        self._pending: dict[int, Future[Output]] = {}
        self._gathered: dict[AbstractEventLoop, list[_Ask]] = {}
        self._prompts: OrderedDict[tuple[Message, ...], list[int]] = OrderedDict()
        self._changed = Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="openzaya-engine", daemon=True)
        self._thread.start()

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus reply, in tokens."""
        return self._engine.max_tokens

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion; the stop token is counted but left out of the text.

        Raises `ContextLengthError` for a prompt that leaves no room for a token, `EngineError` when
        generation failed or the sampler is closed.
        """
        ask = self._ask(request, None)
        try:
            return self._completion(await self._submitted(ask))
        finally:
            self._forget(ask)

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, telling `watch` of its text, or what there is of it when cut.

        Raises what `sample` raises.
        """
        return await self.sample_continuation(request, "", watch)

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        """Complete a turn that begins with `opening`; the completion is what comes after it.

        Raises what `sample` raises.
        """
        watch.restart()
        follower = Follower(self._tokenizer, watch, asyncio.get_running_loop())
        ask = self._ask(request, follower.on_token, opening)
        cutter = asyncio.ensure_future(watch.cut.wait())
        cutter.add_done_callback(lambda done: None if done.cancelled() else self._cut(ask))
        try:
            completion = self._completion(await self._submitted(ask), opening)
        finally:
            cutter.cancel()
            self._forget(ask)
        follower.finish(completion)
        return completion

    def _ask(self, request: SampleRequest, on_token: OnToken | None, opening: str = "") -> _Ask:
        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_token_ids=(self._tokenizer.eos_id,),
        )
        prompt = self._encode(request.messages)
        if opening:
            prompt = prompt + self._tokenizer.encode(opening)
        return _Ask(prompt, params, request.priority, on_token, Future())

    async def _submitted(self, ask: _Ask) -> Output:
        """Hand a request in with all others of this moment, and wait for its end."""
        loop = asyncio.get_running_loop()
        together = self._gathered.setdefault(loop, [])
        together.append(ask)
        if len(together) == 1:
            loop.call_soon(self._hand_in, loop)
        return await wrap_future(ask.future)

    def _hand_in(self, loop: AbstractEventLoop) -> None:
        # Added and registered in one breath: the thread cannot deliver in between.
        with self._changed:
            for ask in self._gathered.pop(loop):
                if ask.future.cancelled():
                    continue
                try:
                    self._refuse_if_stopped()
                    ask.request_id = self._engine.add(
                        ask.prompt, ask.params, priority=ask.priority, on_token=ask.on_token
                    )
                except OpenZayaError as error:
                    ask.future.set_exception(error)
                else:
                    self._pending[ask.request_id] = ask.future
            self._changed.notify()

    def _cut(self, ask: _Ask) -> None:
        """End a generation; its output, what there is, comes as always."""
        with self._changed:
            if ask.request_id in self._pending:
                self._engine.abort(ask.request_id)
                self._changed.notify()

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the length of the prompt that `messages` become."""
        return len(self._encode(messages))

    def last_tokens(self, text: str, count: int) -> str:
        """Return the suffix of `text` that is at most `count` tokens long."""
        return self._tokenizer.last_tokens(text, count)

    def first_tokens(self, text: str, count: int) -> str:
        """Return the prefix of `text` that is at most `count` tokens long."""
        return self._tokenizer.first_tokens(text, count)

    def close(self) -> None:
        """Stop the thread and abort what runs; waiting calls get an `EngineError`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the sampler itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the sampler."""
        self.close()

    def _encode(self, messages: tuple[Message, ...]) -> list[int]:
        known = self._prompts.pop(messages, None)
        if known is None:
            known = self._chat.encode_prompt(
                messages, self._tokenizer, enable_thinking=self._enable_thinking
            )
        self._prompts[messages] = known
        if len(self._prompts) > KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return known

    def _completion(self, output: Output, opening: str = "") -> Completion:
        ids = output.token_ids
        shown = ids[:-1] if output.finish_reason == "stop" else ids
        text = self._tokenizer.decode(shown)
        thinks = self._enable_thinking and THINK_CLOSE not in opening
        return Completion(
            text=text if thinks else all_answer(text),
            num_tokens=len(ids),
            finish_reason=output.finish_reason,
            num_prompt_tokens=output.prompt_len,
            token_ids=tuple(ids),
            started_in_think=thinks,
            logprobs=tuple(output.logprobs),
        )

    def _refuse_if_stopped(self) -> None:
        if self._failure is not None:
            raise EngineError(
                f"the engine stopped with {type(self._failure).__name__}: {self._failure}; "
                "expected it to run: make a new engine and sampler"
            ) from self._failure
        if self._closing:
            raise EngineError("the sampler is closed, expected an open one; make a new sampler")

    def _forget(self, ask: _Ask) -> None:
        """Abort the request unless it was delivered: the caller no longer waits."""
        with self._changed:
            if ask.request_id is None:
                ask.future.cancel()  # not yet handed in
            elif self._pending.pop(ask.request_id, None) is not None:
                self._engine.abort(ask.request_id)
                self._changed.notify()

    def _run(self) -> None:
        """Step the engine while there is work; the body of the thread."""
        try:
            while self._wait_for_work():
                self._deliver(self._engine.step())
        except (OpenZayaError, RuntimeError, ValueError, LookupError, MemoryError) as error:
            self._failure = error
        finally:
            # Also after an error of a kind not foreseen above: nobody may wait forever.
            self._fail_pending()

    def _wait_for_work(self) -> bool:
        """Sleep until the engine has work; return False to end the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._engine.has_work)
            return not self._closing

    def _deliver(self, outputs: list[Output]) -> None:
        """Hand finished outputs to those who wait for them."""
        if not outputs:
            return
        with self._changed:
            ready = [(self._pending.pop(output.request_id, None), output) for output in outputs]
        for future, output in ready:
            if future is not None and future.set_running_or_notify_cancel():
                future.set_result(output)

    def _fail_pending(self) -> None:
        """Give everyone who still waits the reason why nothing will come."""
        with self._changed:
            # However the thread ended, no request is accepted from here on.
            self._closing = True
            for request_id in self._pending:
                self._engine.abort(request_id)
            waiting = list(self._pending.values())
            self._pending.clear()
        reason = "was closed" if self._failure is None else f"failed: {self._failure}"
        for future in waiting:
            if future.set_running_or_notify_cancel():
                error = EngineError(
                    f"the engine {reason} while a completion was awaited, expected it to finish; "
                    "make a new sampler and ask again"
                )
                error.__cause__ = self._failure
                future.set_exception(error)


def load_engine(
    model_dir: str | Path,
    *,
    max_slots: int,
    max_tokens: int | None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Engine:
    """Return an engine over the model of a folder; its cache fits the device's free memory.

    Without `max_tokens` the context is what the cache holds at most. Raises ConfigError for a
    context that it does not hold.
    """
    model = load_model(model_dir, dtype=dtype, device=device)
    budget_bytes = cache_bytes(model.device)
    room = blocks_within(model.config, budget_bytes, model.dtype)
    context = context_tokens(model.config, max_tokens)
    # Sliding layers hold their window only.
    held = room[FULL] * BLOCK_TOKENS if FULL in room else context
    if max_tokens is not None and held < context <= model.config.max_position_embeddings:
        raise ConfigError(
            f"a context of {context} tokens is longer than the {held} that a cache of "
            f"{budget_bytes / 1e9:.1f} GB holds, the share of {model.device}'s free memory that it "
            f"may take; choose a context of at most {held}, quantize the weights, or free memory"
        )
    context = min(context, held)
    most = (max_slots + 1) * blocks_of(context)
    num_blocks = {kind: min(most, count) for kind, count in room.items()}
    return Engine(model, max_slots=max_slots, max_tokens=context, num_blocks=num_blocks)


def load_local_sampler(
    model_dir: str | Path,
    *,
    max_slots: int = 64,
    max_tokens: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    enable_thinking: bool = True,
) -> LocalSampler:
    """Return a sampler over the model, tokenizer and chat template of a folder."""
    engine = load_engine(
        model_dir, max_slots=max_slots, max_tokens=max_tokens, dtype=dtype, device=device
    )
    tokenizer = TextTokenizer.load(model_dir)
    chat = ChatTemplate.load(model_dir)
    return LocalSampler(engine, tokenizer, chat, enable_thinking=enable_thinking)
