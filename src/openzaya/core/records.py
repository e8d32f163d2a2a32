"""The records that packages hand to each other."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    reasoning: str | None = None
    """What the assistant thought before `content`; None when the turn has no think block."""


class Judgement(StrEnum):
    """What a verifier concluded."""

    RIGHT = "right"
    WRONG = "wrong"
    INFRA = "infra"
    """Our own failure. Masked from rewards, baselines, curriculum and metrics."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one reply."""

    judgement: Judgement
    score: float
    """In [0, 1]; 1 only for a right reply. Meaningless for INFRA."""
    reason: str = ""

    @property
    def reward(self) -> float:
        """Binary task reward. Raises ValueError for INFRA, which must be masked instead."""
        if self.judgement is Judgement.INFRA:
            raise ValueError("an INFRA verdict has no reward; mask the rollout instead")
        return 1.0 if self.judgement is Judgement.RIGHT else 0.0


def right(reason: str = "") -> Verdict:
    """Return the verdict for a right reply."""
    return Verdict(Judgement.RIGHT, 1.0, reason)


def wrong(reason: str, score: float = 0.0) -> Verdict:
    """Return the verdict for a wrong reply; `score` < 1 may grant partial credit for diagnosis."""
    return Verdict(Judgement.WRONG, score, reason)


CUT = wrong("cut at the budget")
"""For a reply that did not end by itself, whatever it says so far: in RL it must not be rewarded
for going on and on, and an evaluation says what RL rewards."""


def infra(reason: str) -> Verdict:
    """Return the verdict for a failure of our own."""
    return Verdict(Judgement.INFRA, 0.0, reason)


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One completion asked of a `Sampler`."""

    messages: tuple[Message, ...]
    max_tokens: int
    """Most tokens to generate; the sampler cuts there, it never force-closes thinking."""
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    priority: int = 0
    """Smaller runs first: the age of the problem, so that the oldest problem finishes first."""
    stage: int = 0
    """Stage of the run that asks; a pool of several models may choose one by it."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields for a server elsewhere, as its API names them; `messages` among them replaces
    the messages above. Samplers in this process ignore them."""


@dataclass(frozen=True, slots=True)
class Served:
    """Who completed a request over a network, and how that went."""

    upstream: str
    """Base URL of the server."""
    model: str
    attempts: int
    """Calls that were made for it, the good one included."""
    queued_s: float
    """Seconds from the request until its first call left."""
    first_token_s: float | None
    """Seconds from the request until the first token of the good call; None without any."""
    num_cached_tokens: int | None = None
    """Prompt tokens that the server had computed before, where it tells."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a `Sampler` returns for one `SampleRequest`."""

    text: str
    """Everything generated, thinking included, as the model wrote it."""
    num_tokens: int
    """Newly generated tokens."""
    finish_reason: FinishReason
    num_prompt_tokens: int = 0
    token_ids: Sequence[int] | None = None
    """Ids of `text`, when the sampler can tell them."""
    started_in_think: bool = True
    """True when the prompt already opened the think block, so `text` begins inside it."""
    logprobs: tuple[float, ...] = field(default=(), repr=False)
    served: Served | None = None
    """Where it comes from, when a server elsewhere completed it."""


class Cut(asyncio.Event):
    """The wish to end a completion: an event that can also call back, which costs no task."""

    def __init__(self) -> None:
        """Start without the wish."""
        super().__init__()
        self.on_set: Callable[[], object] | None = None
        """Called by the event loop, soon after the wish was made."""

    def set(self) -> None:
        """Make the wish known; a second time changes nothing."""
        if self.on_set is not None and not self.is_set():
            asyncio.get_running_loop().call_soon(self.on_set)
        super().set()


@dataclass(slots=True)
class Watch:
    """One completion while it is generated: what came so far, and the wish to end it."""

    on_text: Callable[[str, int], None] | None = None
    """Called with each new piece of text and its number of tokens."""
    pieces: list[str] = field(default_factory=list)
    """What was generated so far, as the model wrote it."""
    num_tokens: int = 0
    """How long that is, in tokens."""
    cut: Cut = field(default_factory=Cut)
    """Set it to end the generation; the completion then holds what there is."""

    def add(self, text: str, num_tokens: int) -> None:
        """Take note of new text."""
        self.pieces.append(text)
        if len(self.pieces) >= 256:  # one string for every token would take ten times the memory
            self.pieces[:] = ["".join(self.pieces)]
        self.num_tokens += num_tokens
        if self.on_text is not None:
            self.on_text(text, num_tokens)

    def restart(self) -> None:
        """Forget what came: the call is tried again."""
        self.pieces.clear()
        self.num_tokens = 0
