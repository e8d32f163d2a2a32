"""From a completion to the candidate that the next round sees: thinking, answer, tail, flags."""

import zlib
from collections.abc import Callable
from typing import Protocol, cast

from openzaya.core.errors import OpenZayaError
from openzaya.core.protocols import Sampler
from openzaya.core.records import Completion
from openzaya.text.tails import TailSource, tail_of
from openzaya.text.think import Thought, split_thinking
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.place import Place
from openzaya.ttc.result import Candidate, unwritten
from openzaya.ttc.selection import Extract

LOOP_WINDOW_CHARS = 8_192
"""How much of a tail's end is judged for repetition."""
LOOP_WINDOW_BITS = 13
LOOP_MEMORY_LEVEL = 6
"""Deflate remembers as much as the window holds."""
LOOP_MIN_CHARS = 512
"""Shorter tails are never called looping."""
LOOP_RATIO = 0.05
"""A tail that deflate shrinks below this share repeats itself; plain reasoning stays above 0.2."""


class RemoteTails(Protocol):
    """A sampler that may have to ask a server to cut a tail exactly."""

    def tail_at_hand(self, text: str, count: int) -> str | None:
        """Return the suffix of `text` that is `count` tokens long; None where a server must cut."""
        ...

    async def cut_tail(self, text: str, count: int) -> str:
        """Return the suffix of `text` that is `count` tokens long."""
        ...


class _MissingCutError(Exception):
    """A cut that the server has not been asked for yet."""

    def __init__(self, text: str, count: int) -> None:
        super().__init__(count)
        self.key = (text, count)


async def compact(
    completion: Completion,
    place: Place,
    attempts: int,
    config: MarkovianRSAConfig,
    sampler: Sampler,
    extract: Extract,
) -> Candidate:
    """Return the candidate that a completion becomes.

    A candidate is finished when the model ended by itself outside the think block with something
    to say; only then an answer is read. A trace without reasoning passes on what it wrote.
    `attempts` is what the caller tried; a sampler that retries by itself knows better.
    """
    thought = split_thinking(completion.text, completion.started_in_think)
    is_finished = completion.finish_reason == "stop" and thought.closed and bool(thought.answer)
    source = config.tail_source
    if source == "thinking" and not thought.reasoning.strip():
        source = "all"
    tail = await _tail(thought, sampler, config.tail_tokens, source, is_finished)
    if config.snap == "line":
        tail = snap_to_line(tail)
    return Candidate(
        stage=place.stage,
        slot=place.slot,
        seed=place.seed,
        parents=place.parents,
        text=completion.text,
        thinking=thought.reasoning,
        answer_text=thought.answer,
        answer=extract(thought.answer) if is_finished else None,
        tail=tail,
        is_finished=is_finished,
        is_looping=is_looping(tail),
        num_tokens=completion.num_tokens,
        num_prompt_tokens=completion.num_prompt_tokens,
        finish_reason=completion.finish_reason,
        attempts=attempts if completion.served is None else completion.served.attempts,
        served=completion.served,
    )


def failed(place: Place, attempts: int, error: OpenZayaError) -> Candidate:
    """Return the candidate that stands for a call which was given up."""
    return unwritten(place, "error", attempts, f"{type(error).__name__}: {error}")


async def whole_tail(candidate: Candidate, config: MarkovianRSAConfig, sampler: Sampler) -> str:
    """Return the last tau tokens of reasoning and answer together, whatever tails are cut from."""
    is_closed = bool(candidate.answer_text)
    thought = Thought(candidate.thinking, candidate.answer_text, is_closed)
    return await _tail(thought, sampler, config.tail_tokens, "all", candidate.is_finished)


async def _tail(
    thought: Thought, sampler: Sampler, tail_tokens: int, source: TailSource, is_finished: bool
) -> str:
    """Call the one tail builder; cuts that need a server are fetched between its tries."""
    remote = _remote(sampler)
    if remote is None:
        return tail_of(thought, sampler.last_tokens, tail_tokens, source, finished=is_finished)
    fetched: dict[tuple[str, int], str] = {}
    while True:
        try:
            cut = _at_hand(remote, fetched)
            return tail_of(thought, cut, tail_tokens, source, finished=is_finished)
        except _MissingCutError as missing:
            fetched[missing.key] = await remote.cut_tail(*missing.key)


def _remote(sampler: Sampler) -> RemoteTails | None:
    """Return the sampler where it must ask a server; a lookup costs less than `isinstance`."""
    return cast(RemoteTails, sampler) if hasattr(sampler, "cut_tail") else None


def _at_hand(remote: RemoteTails, fetched: dict[tuple[str, int], str]) -> Callable[[str, int], str]:
    def last_tokens(text: str, count: int) -> str:
        if not text:
            return text
        tail = fetched.get((text, count)) if fetched else remote.tail_at_hand(text, count)
        if tail is None:
            raise _MissingCutError(text, count)
        return tail

    return last_tokens


def snap_to_line(tail: str) -> str:
    """Drop the broken first line of a tail when it ends within the first tenth."""
    end = tail.find("\n", 0, len(tail) // 10 + 1)
    return tail if end < 0 else tail[end + 1 :]


def is_looping(text: str) -> bool:
    """Say whether the end of a text repeats itself so much that it carries nothing."""
    window = text[-LOOP_WINDOW_CHARS:].encode("utf-8", errors="replace")
    if len(window) < LOOP_MIN_CHARS:
        return False
    least = LOOP_RATIO * len(window)
    # What deflates to that much in its first quarter does not get smaller by the rest.
    return _deflated(window[: len(window) // 4]) < least and _deflated(window) < least


def _deflated(window: bytes) -> int:
    """Return the size after deflate; most of its usual cost is a memory for much longer texts."""
    packer = zlib.compressobj(6, zlib.DEFLATED, LOOP_WINDOW_BITS, LOOP_MEMORY_LEVEL)
    return len(packer.compress(window)) + len(packer.flush())
