"""A sampler whose tokens are words; the script decides what each call writes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from openzaya.core.errors import OpenZayaError
from openzaya.core.records import Completion, Message, SampleRequest, Watch

Script = Callable[[SampleRequest, int], str | OpenZayaError]


def words(text: str) -> list[str]:
    return text.split()


def think_then_answer(request: SampleRequest, _call: int) -> str:
    """A reply that depends on the seed alone."""
    thoughts = " ".join(f"t{request.seed % 1000}_{i}" for i in range(3 + request.seed % 40))
    return f"{thoughts} </think> {request.seed % 3}"


class FakeSampler:
    """Meets core.protocols.Sampler and records every request."""

    def __init__(self, script: Script = think_then_answer, context_tokens: int | None = None):
        self.script = script
        self.context_tokens = context_tokens
        self.requests: list[SampleRequest] = []
        self.in_flight = 0
        self.cancelled = 0
        self.gate: asyncio.Event | None = None
        self.held_seeds: set[int] | None = None

    async def sample(self, request: SampleRequest) -> Completion:
        self.requests.append(request)
        call = len(self.requests) - 1
        self.in_flight += 1
        try:
            await asyncio.sleep(0)
            if self.gate and (self.held_seeds is None or request.seed in self.held_seeds):
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        reply = self.script(request, call)
        if isinstance(reply, OpenZayaError):
            raise reply
        kept = words(reply)[: request.max_tokens]
        is_cut = len(words(reply)) > request.max_tokens
        return Completion(
            text=" ".join(kept),
            num_tokens=len(kept),
            finish_reason="length" if is_cut else "stop",
            num_prompt_tokens=self.count_prompt_tokens(request.messages),
        )

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        return sum(len(words(m.content)) for m in messages)

    def last_tokens(self, text: str, count: int) -> str:
        return " ".join(words(text)[-count:])


async def no_sleep(_seconds: float) -> None:
    """Wait for nobody."""


class StreamingSampler(FakeSampler):
    """Streams words in batches, can be cut, and continues open think blocks.

    Every call takes its turn once a batch, so `length_of` decides who is the straggler. A call
    that is cut may still deliver `late_batches` that were under way.
    """

    def __init__(self, script: Script = think_then_answer, batch: int = 4, late_batches: int = 0):
        super().__init__(script)
        self.batch = batch
        self.late_batches = late_batches
        self.streamed = 0
        self.num_cut = 0
        self.openings: list[str] = []

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        whole = await super().sample(request)
        told: list[str] = []
        late = self.late_batches
        while len(told) < whole.num_tokens:
            await asyncio.sleep(0)
            if watch.cut.is_set():
                if not late:
                    break
                late -= 1
            new = words(whole.text)[len(told) : len(told) + self.batch]
            told += new
            self.streamed += len(new)
            watch.add(" ".join(new) + " ", len(new))
        is_cut = len(told) < whole.num_tokens or watch.cut.is_set()
        self.num_cut += is_cut
        return replace(
            whole,
            text=" ".join(told),
            num_tokens=len(told),
            finish_reason="abort" if is_cut else whole.finish_reason,
        )

    def first_tokens(self, text: str, count: int) -> str:
        return " ".join(words(text)[:count]) + " "

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        self.openings.append(opening)
        return await self.sample_watched(request, watch)
