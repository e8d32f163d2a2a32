"""What is asked of the engine and what it gives back; token ids only, never text."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from openzaya.core.errors import ContextLengthError, RequestError

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How one request is sampled; the defaults are plain sampling from the model.

    The order is temperature, top-k, top-p on what top-k left, min-p; the rest is renormalized.
    Raises `RequestError` for values outside their ranges.
    """

    max_tokens: int
    """Most tokens to generate, the stop token included; at least 1."""
    temperature: float = 1.0
    """Divides the logits; 0 = greedy."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens with at least this mass; 1 keeps all."""
    top_k: int = 0
    """Keep this many likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the likeliest token's probability; 0 keeps all."""
    seed: int = 0
    """Names the request's own stream of uniform draws, one per token."""
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends after any of these; the caller passes the end-of-sequence id."""
    capture_experts: bool = False
    """Record the expert of every input token and layer (router replay)."""

    def __post_init__(self) -> None:
        """Refuse values that no sampler could honor."""
        checks = (
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, 0.0 <= self.temperature < np.inf, "finite and >= 0"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "in [0, 1]"),
        )
        for name, value, fits, expected in checks:
            if not fits:
                raise RequestError(f"{name} is {value}, expected {expected}; change {name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A finished request: every sampled token with what training needs to know about it."""

    request_id: int
    """The id that `Engine.add` returned."""
    prompt_len: int
    """Tokens of the prompt."""
    token_ids: list[int]
    """Sampled tokens, the stop token included."""
    logprobs: list[float]
    """Log-probability of each token under the distribution it was drawn from; under temperature 1
    for greedy requests."""
    versions: list[int]
    """Weights version that sampled each token."""
    experts: npt.NDArray[np.uint8] | None
    """[prompt_len + n - 1, L]: expert of every token that was an input, E = skip; the last sampled
    token was never an input. None unless asked for, and when nothing was sampled."""
    finish_reason: FinishReason
    """"stop" after a stop token, "length" at `max_tokens` or the slot's end, else "abort"."""

    @property
    def expert_ids(self) -> npt.NDArray[np.uint8] | None:
        """The same array as `experts`."""
        return self.experts


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """A request inside the engine."""

    request_id: int
    """Counts requests of this engine."""
    prompt: npt.NDArray[np.int64]
    """Prompt ids, at least one."""
    params: SamplingParams
    """How to sample it."""
    priority: int
    """Smaller is admitted first."""
    limit: int
    """Most tokens to generate: `max_tokens` or what the context leaves."""
    tenant: str = ""
    """Who shares the engine fairly with other tenants."""
    salt: str = ""
    """Only requests with equal salts share what was computed of their prompts."""
    row: int = -1
    """Row of the ledger from the first admission on; -1 before."""


@dataclass(kw_only=True, slots=True)
class EngineStats:
    """What an engine has done since it was made."""

    steps: int = 0
    """Calls of `step` that ran the model."""
    tokens_generated: int = 0
    """Sampled tokens."""
    tokens_prefilled: int = 0
    """Prompt tokens computed."""
    tokens_prefill_saved: int = 0
    """Prompt tokens shared with an identical prompt that was being computed."""
    prefix_hit_tokens: int = 0
    """Tokens found in the prefix cache instead of computed."""
    preemptions: int = 0
    """Times a request was put back into the queue for lack of blocks."""
    evictions: int = 0
    """Blocks kept for reuse that were given up for others."""
    blocks_used: dict[str, int] = field(default_factory=dict)
    """Blocks of running requests after the last step, by layer type."""
    blocks_free: dict[str, int] = field(default_factory=dict)
    """The other blocks, those kept for reuse included."""
    prefix_bytes: int = 0
    """Memory of the states and experts kept beside the blocks."""
    decode_steps: int = 0
    """Batched decode passes."""
    tokens_decoded: int = 0
    """Tokens sampled by them; the first token of a request comes from its prefill."""

    @property
    def mean_batch(self) -> float:
        """Mean requests per decode pass; 0 before the first."""
        return self.tokens_decoded / self.decode_steps if self.decode_steps else 0.0


def check_prompt(prompt: npt.NDArray[np.int64], context_tokens: int, vocab_size: int) -> None:
    """Refuse a prompt that the engine cannot continue.

    Raises `ContextLengthError` when it leaves no room for a token, `RequestError` when it is empty
    or holds ids outside the vocabulary.
    """
    if len(prompt) == 0:
        raise RequestError("the prompt is empty, expected a token at least; add a start token")
    if len(prompt) >= context_tokens:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens, expected at most {context_tokens - 1} "
            f"(context {context_tokens} less one to generate); shorten the prompt or make the "
            "engine with a larger max_tokens"
        )
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        raise RequestError(
            f"the prompt holds ids from {prompt.min()} to {prompt.max()}, expected 0 to "
            f"{vocab_size - 1}; encode it with the model's own tokenizer"
        )
