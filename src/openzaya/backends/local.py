"""A sampler over our own engine: a thread steps it, coroutines wait for their requests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

from openzaya.core.errors import EngineError
from openzaya.core.records import Completion, Message, SampleRequest
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.checkpoint import load
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Output]"

    def resolve(self, output: Output) -> None:
        """Hand the output to the coroutine, unless it has gone."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set, output, None)

    def fail(self, error: Exception) -> None:
        """Raise in the coroutine, unless it has gone."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set, None, error)

    def _set(self, output: Output | None, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif output is not None:
            self.future.set_result(output)


class LocalSampler:
    """Meets `core.protocols.Sampler`; many coroutines share one continuous batch.

    Close it when done, or use it as a context manager: it owns a thread.
    """

    retries_itself = True
    """A deterministic engine fails the same way again."""
    tail_method = "exact"
    """Tails are cut at the tokens of the model itself."""

    def __init__(self, engine: Engine, tokenizer: TextTokenizer, chat: ChatTemplate) -> None:
        """Start the thread that steps `engine`; nothing else may step it meanwhile."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.chat = chat
        self._waiters: dict[int, _Waiter] = {}
        self._wake = Condition()
        self._closing = False
        self._broken: Exception | None = None
        self._thread = Thread(target=self._run, name="openzaya-engine", daemon=True)
        self._thread.start()

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus reply."""
        return self.engine.max_tokens

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion; cancelling the coroutine aborts the generation.

        Raises ContextLengthError for a prompt that does not fit, EngineError when the engine fails.
        """
        ids = self.chat.encode_prompt(request.messages, self.tokenizer)
        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_token_ids=(self.tokenizer.eos_id,),
        )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Output] = loop.create_future()
        with self._wake:
            if self._broken is not None or self._closing:
                raise EngineError(f"the engine is not running ({self._broken}); load it again")
            request_id = self.engine.add(ids, params, request.priority)
            self._waiters[request_id] = _Waiter(loop, future)
            self._wake.notify()
        with self._aborting(request_id):
            output = await future
        return self._completion(output)

    @contextmanager
    def _aborting(self, request_id: int) -> Iterator[None]:
        """Abort the request when the coroutine leaves without its output."""
        try:
            yield
        except asyncio.CancelledError:
            with self._wake:
                if self._waiters.pop(request_id, None) is not None:
                    self.engine.abort(request_id)
                    self._wake.notify()
            raise

    def _completion(self, output: Output) -> Completion:
        ids = list(output.token_ids)
        shown = ids[:-1] if ids and ids[-1] == self.tokenizer.eos_id else ids
        return Completion(
            text=self.tokenizer.decode(shown),
            num_tokens=len(ids),
            finish_reason=output.finish_reason,
            num_prompt_tokens=output.prompt_len,
            token_ids=tuple(shown),
            started_in_think=True,
            logprobs=tuple(output.logprobs),
        )

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the exact length of the prompt."""
        return len(self.chat.encode_prompt(messages, self.tokenizer))

    def last_tokens(self, text: str, count: int) -> str:
        """Return the suffix of `text` that is `count` tokens long."""
        return self.tokenizer.last_tokens(text, count)

    def close(self) -> None:
        """Stop the thread; coroutines that still wait get an EngineError."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def __enter__(self) -> "LocalSampler":
        """Return the sampler."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                for output in self.engine.step():
                    self._deliver(output)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: waiters must hear of it
            self._fail_all(error)
        else:
            self._fail_all(EngineError("the sampler was closed"))

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._closing or self.engine.has_work):
                self._wake.wait()
            return not self._closing

    def _deliver(self, output: Output) -> None:
        with self._wake:
            waiter = self._waiters.pop(output.request_id, None)
        if waiter is not None:
            waiter.resolve(output)

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            self._broken = error
            waiters, self._waiters = list(self._waiters.values()), {}
        for waiter in waiters:
            waiter.fail(EngineError(f"the engine stopped: {type(error).__name__}: {error}"))


def load_local_sampler(
    model_dir: str | Path,
    *,
    max_slots: int = 64,
    max_tokens: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> LocalSampler:
    """Load model, tokenizer and chat template of a folder and start an engine on them.

    Raises CheckpointError when the folder is incomplete or damaged.
    """
    tokenizer = TextTokenizer.load(model_dir)
    chat = ChatTemplate.load(model_dir)
    model = load(model_dir, dtype=dtype, device=device)
    return LocalSampler(Engine(model, max_slots=max_slots, max_tokens=max_tokens), tokenizer, chat)
