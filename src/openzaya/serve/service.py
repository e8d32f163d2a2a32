"""What all routes share: the model that is served and how it is reached."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from starlette.requests import Request

from openzaya.engine.request import MIN_TEMPERATURE, SamplingParams, sibling_seed
from openzaya.serve.chat import ChatCodec
from openzaya.serve.config import ServeConfig
from openzaya.serve.driver import Driver
from openzaya.serve.errors import ApiError, bad_request, too_long
from openzaya.serve.grammar import Constrained, Grammars
from openzaya.serve.jobs import Ask
from openzaya.serve.json_body import read_json
from openzaya.serve.keys import Keys
from openzaya.serve.metrics import Metrics
from openzaya.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Sampling,
    TokenizeRequest,
    reader,
)

ENCODERS = 2
"""Threads that turn text into ids beside the event loop."""
T = TypeVar("T")
M = TypeVar("M", TokenizeRequest, DetokenizeRequest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One model behind one server."""

    config: ServeConfig
    """How it listens."""
    model_name: str
    """What requests call it."""
    codec: ChatCodec
    """Text to ids and back."""
    driver: Driver
    """The engine."""
    keys: Keys
    """Who may ask."""
    metrics: Metrics
    """What is counted."""
    context_tokens: int
    """Longest prompt plus reply."""
    vocab_size: int
    """Ids that the model knows."""
    grammars: Grammars
    """What the forms of answers are compiled by."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time of the start."""
    encoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(ENCODERS, "openzaya-encode")
    )
    """Where prompts are encoded."""

    def check_model(self, name: str | None) -> None:
        """Raise ApiError 404 for another model's name."""
        if name is not None and name != self.model_name:
            raise ApiError(
                404,
                f"this server has no model of that name, only {self.model_name!r}",
                param="model",
                code="model_not_found",
            )

    def asks(
        self,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[list[int]],
        constrained: Constrained | None = None,
    ) -> list[Ask]:
        """Return every choice that is wanted, the choices of a prompt side by side.

        Each is `constrained` on its own.

        The first choice draws with the request's seed, the others with seeds derived from it.
        Raises ApiError 400 for prompts that do not fit the context or the vocabulary.
        """
        name = "messages" if isinstance(request, ChatRequest) else "prompt"
        seed = secrets.randbits(63) if request.seed is None else request.seed
        asks: list[Ask] = []
        for prompt in prompts:
            limit = self.room(prompt, request.limit, name)
            for _ in range(request.n or 1):
                own = sibling_seed(seed, len(asks))
                params = self._params(request, limit, own)
                if constrained is not None:
                    params = replace(params, constraint=replace(constrained))
                asks.append(Ask(prompt, params))
        return asks

    def room(self, prompt: list[int], limit: int | None, name: str) -> int:
        """Return how many tokens a reply may have. Raises ApiError 400 when it cannot fit."""
        if not prompt:
            raise bad_request("the prompt is empty; write something", name)
        if max(prompt) >= self.vocab_size:
            raise bad_request(
                f"the prompt holds the id {max(prompt)}, expected 0 to {self.vocab_size - 1}", name
            )
        wanted = 1 if limit is None else limit
        if len(prompt) + wanted > self.context_tokens:
            raise too_long(len(prompt) + wanted, self.context_tokens, name)
        return self.context_tokens - len(prompt) if limit is None else limit

    def _params(self, request: Sampling, limit: int, seed: int) -> SamplingParams:
        thinking = {}
        if isinstance(request, ChatRequest) and request.think_budget is not None:
            thinking = {
                "think_budget": request.think_budget,
                "think_end_ids": self.codec.think_end_ids,
                "think_close_ids": self.codec.think_close_ids,
            }
        return SamplingParams(
            max_tokens=limit,
            temperature=_temperature(request),
            top_p=_given(request.top_p, 1.0),
            top_k=max(0, request.top_k or 0),
            min_p=request.min_p or 0.0,
            seed=seed,
            stop_token_ids=self.codec.stop_ids,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            repetition_penalty=_given(request.repetition_penalty, 1.0),
            logit_bias=self._bias(request.logit_bias or {}),
            top_logprobs=_num_top(request),
            **thinking,  # type: ignore[arg-type]
        )

    def _bias(self, biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
        wrong = [token for token in biases if int(token) >= self.vocab_size]
        if wrong:
            raise bad_request(
                f"{wrong[0]} is no token, expected 0 to {self.vocab_size - 1}", "logit_bias"
            )
        return tuple((int(token), bias) for token, bias in biases.items())

    async def read(self, request: Request, kind: type[M]) -> M:
        """Return the body of a request. Raises ApiError for what is refused."""
        config = self.config
        body = await read_json(request, config.max_body_bytes, config.body_s, reader(kind))
        self.check_model(body.model)
        return body

    async def encode(self, work: Callable[[], T]) -> T:
        """Do the work of turning text into ids beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.encoders, work)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _temperature(request: Sampling) -> float:
    """Return the temperature; one too small to divide by is greedy."""
    wanted = _given(request.temperature, 1.0)
    return wanted if wanted >= MIN_TEMPERATURE else 0.0


def _num_top(request: Sampling) -> int:
    """Return how many likeliest tokens are wanted beside the chosen one."""
    if isinstance(request, ChatRequest):
        return request.top_logprobs or 0
    return (request.logprobs or 0) if isinstance(request, CompletionRequest) else 0
