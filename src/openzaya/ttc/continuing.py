"""Going on inside the assistant's turn: chains, and an answer where thinking did not end.

A trace of the last stage whose thinking reaches its budget has no answer and no vote. With a
reserve its thinking ends that much earlier, its block is closed, and a second call has the reserve
for the answer: one continuation, for any sampler that can begin inside the turn.

Deviation: D-063.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from openzaya.core.errors import OpenZayaError
from openzaya.core.protocols import Sampler, WatchedSampler
from openzaya.core.records import Completion, SampleRequest, Watch
from openzaya.text.markers import THINK_CLOSE, strip_control_tokens
from openzaya.text.think import split_thinking

CLOSING = f"\n{THINK_CLOSE}\n\n"
"""What ends a thought."""
CLOSING_TOKENS = 8
"""Room in the context for `CLOSING`, taken from the reserve."""

Call = Callable[[SampleRequest, str, Watch], Awaitable[Completion]]
"""Request, how the assistant's turn begins (empty: at its beginning), watch."""


@runtime_checkable
class ContinuingSampler(WatchedSampler, Protocol):
    """A sampler that can begin inside the think block of the assistant's turn, or behind it.

    Where only some servers can, `can_continue` (bool) says whether these do. One that can cut a
    prefix exactly has `first_tokens(text, count)`, which continued chains need.
    """

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        """Complete a turn whose think block begins with `opening`; return the new text.

        An opening that holds the closing marker begins behind the block.
        """
        ...


def continuing(sampler: Sampler) -> ContinuingSampler | None:
    """Return the sampler where it can continue a turn."""
    can = isinstance(sampler, ContinuingSampler) and getattr(sampler, "can_continue", True)
    return sampler if can else None  # type: ignore[return-value]


class Sequel(Watch):
    """The watch of a second call: for the first one's watch its text follows what came before."""

    def __init__(self, outer: Watch) -> None:
        """Follow what `outer` holds; a wish to cut it reaches the second call."""
        super().__init__(cut=outer.cut)
        self._outer = outer
        self.tokens_before = outer.num_tokens
        self.before = "".join(outer.pieces)
        """What came before the second call."""

    def add(self, text: str, num_tokens: int) -> None:
        """Take note of new text."""
        super().add(text, num_tokens)
        self._outer.add(text, num_tokens)

    def restart(self) -> None:
        """Forget what came of the second call."""
        super().restart()
        self._outer.restart()
        self._outer.pieces.append(self.before)
        self._outer.num_tokens = self.tokens_before


def before_of(watch: Watch) -> str:
    """Return what an earlier call wrote in front of what a watch is about to see."""
    return watch.before if isinstance(watch, Sequel) else ""


def written(watch: Watch) -> int:
    """Return the tokens of a candidate so far, those of an earlier call included."""
    return watch.num_tokens + (watch.tokens_before if isinstance(watch, Sequel) else 0)


async def answered(
    request: SampleRequest, opening: str, reserve: int, watch: Watch, call: Call
) -> Completion:
    """Return a completion of at most `request.max_tokens` that ends with an answer if it can.

    Thinking that has not ended `reserve` tokens before is closed. A second call that fails takes
    nothing away from the first. Raises what the first call raises.
    """
    first = await call(replace(request, max_tokens=request.max_tokens - reserve), opening, watch)
    thought = split_thinking(first.text, first.started_in_think)
    if thought.closed or first.finish_reason != "length" or watch.cut.is_set():
        return first
    watch.add(CLOSING, 0)
    left = request.max_tokens - first.num_tokens - CLOSING_TOKENS
    begun = opening + strip_control_tokens(thought.reasoning) + CLOSING
    sequel = Sequel(watch)
    try:
        second = await call(replace(request, max_tokens=left), begun, sequel)
    except OpenZayaError:
        sequel.restart()
        return first
    served = second.served
    if served is not None and first.served is not None:
        served = replace(served, attempts=first.served.attempts + served.attempts - 1)
    return replace(
        second,
        served=served,
        text=f"{first.text}{CLOSING}{_answer_of(second)}",
        num_tokens=first.num_tokens + second.num_tokens,
        num_prompt_tokens=first.num_prompt_tokens + second.num_prompt_tokens,
        token_ids=None,  # the marker between the two was not generated
        logprobs=(),
        started_in_think=first.started_in_think,
    )


def _answer_of(second: Completion) -> str:
    """Return the text of a second call; some servers call it reasoning although it is not."""
    if not second.started_in_think:
        return second.text
    thought = split_thinking(second.text, started_in_think=True)
    return thought.answer or thought.reasoning
