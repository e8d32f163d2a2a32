"""What the mock upstream does; every setting is a field."""

import re
from dataclasses import dataclass
from typing import Literal

from openzaya.backends.mock.faults import Fault
from openzaya.backends.mock.lengths import LengthLaw
from openzaya.core.errors import ConfigError

AGGREGATION_MARK = r"\n\n(?:Candidate reasoning \d+|Earlier reasoning):\n"
"""What follows the question in the prompts of `openzaya.text.tails`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MockConfig:
    """A model that does not exist on a server that misbehaves on demand. Times in seconds."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """0 takes a free one."""
    model: str = "mock"
    """Names of the models served, separated by commas; the first is the default."""
    seed: int = 0
    """Decides the faults, and the replies to requests that bring no seed of their own."""
    time_scale: float = 1.0
    """Multiplies every time below: 0.01 plays an hour in 36 s."""

    ttft_s: float = 0.02
    """From a free slot to the first token."""
    token_s: float = 0.0
    """From one token to the next with one call in flight."""
    batch_token_s: float = 0.0
    """Added to `token_s` for every other call in flight."""
    chunk_tokens: int = 16
    """Tokens in one event of a stream; the first event always holds one."""
    slots: int = 0
    """Calls that generate at the same time, the others wait; 0 means all."""
    priority: Literal["none", "lower", "higher"] = "none"
    """Who leaves the queue first: who came first, or the lower or higher `priority` field."""

    length: str = "fixed:256"
    """Law of the reply's length in tokens: fixed:N, lognormal:MEDIAN:SIGMA or
    straggler:MEDIAN:SHARE:FACTOR. The request's max_tokens cuts it."""
    reasoning: Literal["reasoning_content", "reasoning", "raw", "none"] = "reasoning_content"
    """The field that carries the thinking; raw puts a think block into the content."""
    ids: Literal["none", "vllm", "sglang"] = "none"
    """Whose way of returning token ids is imitated when a request asks for them."""
    can_tokenize: bool = True
    """Whether /tokenize and /detokenize exist."""
    can_continue: bool = False
    """Whether `continue_final_message` leaves the assistant's last turn open."""
    context_tokens: int = 131_072
    """Longest prompt plus reply; a longer request gets status 400."""
    cached_share: float = 0.0
    """Part of the prompt that the usage calls cached."""

    accuracy: float = 0.5
    """Chance that the answer to a plain question is right."""
    aggregation_accuracy: float = 0.8
    """The same for a prompt that shows candidates to combine."""
    aggregation_mark: str = AGGREGATION_MARK
    """Regular expression that separates the question from the candidates."""
    num_wrong: int = 4
    """Number of different wrong answers."""
    tool_share: float = 1.0
    """Share of requests with tools that are answered by a call of one."""

    faults: tuple[str, ...] = ()
    """Failures, written as NAME=PROBABILITY@CALLS; `faults.py` lists the names."""
    retry_after_s: float = 1.0
    """What the Retry-After header of a 429 says (rounded up to whole seconds)."""
    refused_s: float = 0.2
    """How long no new connection is accepted after the fault `refused`."""
    drip_s: float = 50.0
    """Time between two tokens of the fault `drip`."""
    giant_line_bytes: int = 2 << 20
    """Length of the line of the fault `giant_line`."""

    api_key: str = ""
    """Refuse requests without this key; empty lets everybody in."""
    kept_calls: int = 100_000
    """Calls that /calls remembers."""
    kept_requests: int = 0
    """Bodies that /requests remembers."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        LengthLaw.parse(self.length)
        for spec in self.faults:
            Fault.parse(spec)
        try:
            re.compile(self.aggregation_mark)
        except re.error as error:
            raise ConfigError(
                f"aggregation_mark is {self.aggregation_mark!r}, no regular expression ({error})"
            ) from None
        for name in ("time_scale", "ttft_s", "token_s", "batch_token_s", "drip_s", "refused_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose 0 or more")
        for name in ("accuracy", "aggregation_accuracy", "tool_share", "cached_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose a share within 0 and 1")
        for name in ("chunk_tokens", "num_wrong", "context_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose at least 1")

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models served."""
        return tuple(name.strip() for name in self.model.split(",") if name.strip())
