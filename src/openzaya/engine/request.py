"""What is asked of the engine and what it gives back; token ids only, never text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from openzaya.core.errors import ContextLengthError, RequestError
from openzaya.core.seeding import stream_seed
from openzaya.engine.constraint import Constraint

FinishReason = Literal["stop", "length", "abort"]
MAX_TOP_LOGPROBS = 20
MIN_TEMPERATURE = 1e-4
"""A smaller one above 0 would leave the range of fp32 logits."""
MAX_ID = 2**31
"""More than any vocabulary has."""
MAX_SHIFT = 1e4
"""What a penalty or a bias may add to a logit at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How one request is sampled; the defaults are plain sampling from the model.

    The order is repetition penalty, frequency and presence penalty, logit bias, constraint,
    temperature, top-k, top-p on what top-k left, min-p; the rest is renormalized. Forced tokens
    replace drawn ones.
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
    presence_penalty: float = 0.0
    """Taken once from the logit of every token that was generated before (OpenAI)."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit as often as the token was generated before (OpenAI)."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens of the prompt or the generation
    (Hugging Face); 1 changes nothing."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these ids."""
    top_logprobs: int = 0
    """Report this many likeliest tokens of the distribution drawn from to `on_token`."""
    think_budget: int | None = None
    """Most tokens before the thought must end: then `think_end_ids` are forced one by one, unless
    it has ended. Their log-probability is the one before top-k, top-p and min-p. None = no limit.
    """
    think_end_ids: tuple[int, ...] = ()
    """The sequence that ends a thought."""
    think_close_ids: tuple[int, ...] = ()
    """Ids any one of which ends the thought as well."""
    constraint: Callable[[], Constraint] | None = None
    """Makes what allows tokens, once for each request that is admitted. None allows all."""

    def __post_init__(self) -> None:
        """Refuse values that no sampler could honor."""
        checks = (
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            (
                "temperature",
                self.temperature,
                self.temperature == 0 or MIN_TEMPERATURE <= self.temperature < np.inf,
                f"0, or finite and at least {MIN_TEMPERATURE}",
            ),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("top_k", self.top_k, 0 <= self.top_k <= MAX_ID, f"0 (off) to {MAX_ID}"),
            ("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "in [0, 1]"),
            (
                "presence_penalty",
                self.presence_penalty,
                abs(self.presence_penalty) <= MAX_SHIFT,
                f"at most {MAX_SHIFT} in size",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                abs(self.frequency_penalty) <= MAX_SHIFT,
                f"at most {MAX_SHIFT} in size",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                0.01 <= self.repetition_penalty <= 100.0,
                "in [0.01, 100]",
            ),
            (
                "logit_bias",
                self.logit_bias,
                all(abs(bias) <= MAX_SHIFT for _, bias in self.logit_bias),
                f"at most {MAX_SHIFT} in size",
            ),
            (
                "top_logprobs",
                self.top_logprobs,
                0 <= self.top_logprobs <= MAX_TOP_LOGPROBS,
                f"0 to {MAX_TOP_LOGPROBS}",
            ),
            (
                "think_budget",
                self.think_budget,
                self.think_budget is None or (self.think_budget >= 0 and self.think_end_ids),
                "None, or 0 or more beside think_end_ids",
            ),
        )
        for name, value, fits, expected in checks:
            if not fits:
                raise RequestError(f"{name} is {value}, expected {expected}; change {name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEvent:
    """One sampled token, told while its request goes on."""

    request_id: int
    """The id that `Engine.add` returned."""
    index: int
    """Counts the request's tokens from 0."""
    token_id: int
    """The token."""
    logprob: float
    """As in `Output.logprobs`."""
    version: int
    """Weights version that sampled it."""
    top: tuple[tuple[int, float], ...]
    """Likeliest ids with their log-probabilities, best first, as many as `top_logprobs` asks for;
    ids of probability zero are left out."""
    finish_reason: FinishReason | None
    """None while the request goes on."""


OnStart = Callable[[], None]
"""Called from the stepping thread once, when a request stops waiting; it must not raise."""
OnToken = Callable[[TokenEvent], None]
"""Called from the stepping thread for every sampled token; it must not raise. An aborted request
is told no more."""


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
    on_start: OnStart | None = None
    """Who is told that it waits no longer."""
    on_token: OnToken | None = None
    """Who is told of every token."""
    row: int = -1
    """Row of the ledger from the first admission on; -1 before."""

    def __post_init__(self) -> None:
        """Refuse what could not be compared with other requests."""
        if not isinstance(self.priority, int | np.integer):
            raise RequestError(f"priority is {self.priority!r}, expected a whole number; pass one")


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


def sibling_seed(seed: int, index: int) -> int:
    """Return the seed of the request at `index` of several that were given one seed.

    The first keeps it, so that one request alone draws what it draws in company.
    """
    return stream_seed(seed, "engine", "prompt", index) if index else seed


def read_prompt(
    prompt_ids: Sequence[int], context_tokens: int, vocab_size: int
) -> npt.NDArray[np.int64]:
    """Return the ids of a prompt that the engine can continue.

    Raises `ContextLengthError` when it leaves no room for a token, `RequestError` when it is empty
    or holds anything but ids of the vocabulary.
    """
    found = np.array(prompt_ids)
    if found.size == 0:
        raise RequestError("the prompt is empty, expected a token at least; add a start token")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise RequestError(
            f"the prompt is an array of {found.dtype} of shape {found.shape}, expected one row of "
            "whole numbers; encode it with the model's own tokenizer"
        )
    prompt = found.astype(np.int64)
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
    return prompt


def check_ids(params: SamplingParams, vocab_size: int) -> None:
    """Refuse what is no id of the vocabulary, as `RequestError`.

    Stop tokens may lie behind a vocabulary: tokenizers know more than some models.
    """
    biased = tuple(token for token, _ in params.logit_bias)
    for name, values, count in (
        ("logit_bias", biased, vocab_size),
        ("think_end_ids", params.think_end_ids, vocab_size),
        ("stop_token_ids", params.stop_token_ids, MAX_ID),
        ("think_close_ids", params.think_close_ids, MAX_ID),
    ):
        wrong = [t for t in values if not (0 <= t < count and t == int(t))]
        if wrong:
            raise RequestError(
                f"{name} holds the id {wrong[0]}, expected 0 to {count - 1}; name tokens of the "
                "model's own tokenizer"
            )
