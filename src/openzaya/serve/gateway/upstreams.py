"""Runs over other servers: each call carries the client's conversation and fields as they came."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import ASGIApp

from openzaya.core.records import Completion, Message, SampleRequest, Watch
from openzaya.serve.errors import ApiError
from openzaya.serve.form_schema import demands_call
from openzaya.serve.gateway.backend import Charge, Who, Wish, check_alone
from openzaya.serve.gateway.choice import Choice, shaped
from openzaya.serve.gateway.conversation import Conversation, text_of_content
from openzaya.serve.gateway.live_text import LiveText
from openzaya.serve.gateway.pass_through import PassThrough, Pool
from openzaya.serve.gateway.schema import (
    FINAL_ONLY,
    SETTINGS_OF_RUN,
    UpstreamChat,
    UpstreamCompletion,
)
from openzaya.serve.schema import reader
from openzaya.ttc.continuing import before_of, written

OURS = SETTINGS_OF_RUN | {
    "seed",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "priority",
    "logprobs",
    "top_logprobs",
    "return_token_ids",
}
"""Fields that the calls of a run get from the run."""


class UpstreamBackend:
    """Other servers behind the gateway."""

    posts: Mapping[str, tuple[type[BaseModel], str]] = {
        "/v1/chat/completions": (UpstreamChat, "Continue a conversation"),
        "/v1/completions": (UpstreamCompletion, "Continue a text"),
    }

    def __init__(self, pool: Pool, *, slow_reader_s: float) -> None:
        self._pool = pool
        self._slow_reader_s = slow_reader_s
        self._created = int(time.time())

    @property
    def models(self) -> Sequence[str]:
        """Names of the models, the default one first."""
        return self._pool.models

    def card(self, model: str) -> dict[str, Any]:
        """Return what GET /v1/models says of a model."""
        context = getattr(self._pool.sampler(model=model), "context_tokens", None)
        told = {"id": model, "object": "model", "created": self._created, "owned_by": "upstream"}
        return told if context is None else {**told, "max_model_len": context}

    async def check(self, body: dict[str, Any], choice: Choice) -> Wish:
        """Return the wish in a body; unknown fields go to the calls of every stage."""
        assert choice.config is not None
        ask = reader(UpstreamChat)({name: value for name, value in body.items() if name != "ttc"})
        check_alone(ask)
        conversation = Conversation.of(ask.messages)
        has_tools = bool(ask.tools) and ask.tool_choice != "none"
        wants_json = ask.response_format is not None and ask.response_format.type != "text"
        given = {
            name: value for name, value in body.items() if value is not None and name not in OURS
        }
        sampler = self._pool.sampler(model=choice.model)
        question = tuple(Message("user", text_of_content(turn.content)) for turn in ask.messages)
        return Wish(
            conversation=conversation,
            config=shaped(
                choice.config,
                temperature=ask.temperature,
                top_p=ask.top_p,
                limit=ask.limit,
                n=ask.n or 1,
                has_form=has_tools or wants_json,
            ),
            n=ask.n or 1,
            stream=bool(ask.stream),
            include_usage=ask.stream_options is not None and bool(ask.stream_options.include_usage),
            seed=ask.seed,
            stops=ask.stops,
            tools=_schemas(ask) if has_tools else None,
            wants_json=wants_json,
            must_call=demands_call(ask.tool_choice),
            priority=ask.priority or 0,
            question_tokens=sampler.count_prompt_tokens(question),
            fields={name: value for name, value in given.items() if name not in FINAL_ONLY},
            final_fields={name: value for name, value in given.items() if name in FINAL_ONLY},
            body=ask,
        )

    def sampler(
        self,
        wish: Wish,
        model: str,
        run: int,  # noqa: ARG002
        who: Who,
        live: LiveText | None,
    ) -> "UpstreamSampler":
        """Return the sampler of one run."""
        weight = who.key.allowance.weight
        calls = self._pool.sampler(model=model, tenant=who.tenant, weight=weight)
        return UpstreamSampler(calls, wish, live)

    async def pass_through(
        self,
        request: Request,  # noqa: ARG002
        body: dict[str, Any],
        choice: Choice,
        who: Who,
        charge: Charge,
    ) -> ASGIApp:
        """Answer a chat as the upstream does."""
        ask = reader(UpstreamChat)(body)
        return PassThrough(
            self._pool,
            {**given_of(body), "model": choice.model},
            who,
            path="/chat/completions",
            priority=ask.priority or 0,
            charge=charge,
            slow_reader_s=self._slow_reader_s,
        )

    async def complete(
        self,
        request: Request,  # noqa: ARG002
        body: dict[str, Any],
        who: Who,
        charge: Charge,
    ) -> ASGIApp:
        """Answer a plain completion as the upstream does."""
        ask = reader(UpstreamCompletion)(body)
        if ask.model not in self.models:
            raise ApiError(
                404,
                "this server has no model of that name for plain completions; see GET /v1/models",
                param="model",
                code="model_not_found",
            )
        return PassThrough(
            self._pool,
            given_of(body),
            who,
            path="/completions",
            priority=ask.priority or 0,
            charge=charge,
            slow_reader_s=self._slow_reader_s,
        )

    def status(self) -> dict[str, Any]:
        """Return the state of all upstreams."""
        upstreams = self._pool.status()["upstreams"]
        up = sum(found["state"] != "open" for found in upstreams)
        state = "ok" if up == len(upstreams) else "degraded" if up else "failed"
        return {"status": state, "upstreams": upstreams}

    def drain(self) -> None:
        """Take no more requests: what upstreams generate for us ends by itself."""


def given_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are given: null means that one is not, and not every server knows."""
    return {name: value for name, value in body.items() if value is not None}


def _schemas(ask: UpstreamChat) -> dict[str, dict[str, Any]]:
    """Return the properties of each tool's parameters."""
    found = {}
    for tool in ask.tools or ():
        properties = (tool.function.parameters or {}).get("properties")
        found[tool.function.name] = properties if isinstance(properties, dict) else {}
    return found


@dataclass(slots=True)
class UpstreamSampler:
    """The calls of one run; meets `core.protocols.WatchedSampler`.

    The state machine sees the conversation up to the question, as texts. Here every other turn,
    every part that is no text and every field of the client's request is put back.
    """

    calls: Any
    """The pool's sampler."""
    wish: Wish
    live: LiveText | None
    retries_itself: bool = True
    broken_tokens: int = 0
    """Generated by calls that were cancelled."""
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def has_begun(self) -> bool:
        """Whether any call got a place at a server."""
        return bool(self.calls.calls)

    @property
    def context_tokens(self) -> int | None:
        """The model's context, where the upstreams tell it."""
        found: int | None = self.calls.context_tokens
        return found

    @property
    def tail_method(self) -> str:
        """How the last tail was cut; approximate methods say so."""
        return str(self.calls.tail_method)

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the prompt's length, what follows the question included."""
        told = self.wish.conversation.contents_with(messages[-1].content)
        turns = tuple(Message("user", text_of_content(content)) for _, content in told)
        count: int = self.calls.count_prompt_tokens(turns)
        return count

    def last_tokens(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`."""
        return str(self.calls.last_tokens(text, count))

    def tail_at_hand(self, text: str, count: int) -> str | None:
        """Return the last `count` tokens of `text` by the ids that came with it; None without."""
        tail: str | None = self.calls.tail_at_hand(text, count)
        return tail

    async def cut_tail(self, text: str, count: int) -> str:
        """Return the last `count` tokens of `text`, exactly where an upstream can tell."""
        return str(await self.calls.cut_tail(text, count))

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion. Raises ContextLengthError, UpstreamError."""
        return await self.sample_watched(request, Watch())

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, or what there is of it once `watch.cut` is set."""
        call = self.calls.sample_watched(*self._asked(request, watch))
        return await self._counted(call, watch)

    async def _counted(self, call: Awaitable[Completion], watch: Watch) -> Completion:
        """Return what a call gives; of one that is cancelled, count what it wrote."""
        try:
            return await call
        except asyncio.CancelledError:
            self.broken_tokens += written(watch)
            raise

    @property
    def can_continue(self) -> bool:
        """Whether the upstreams continue a turn that is left open."""
        return bool(self.calls.can_continue)

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        """Complete a turn whose think block begins with `opening`; return what comes after it."""
        asked, heard = self._asked(request, watch)
        return await self._counted(self.calls.sample_continuation(asked, opening, heard), watch)

    def _asked(self, request: SampleRequest, watch: Watch) -> tuple[SampleRequest, Watch]:
        """Return a call with the client's fields, and the watch that a live answer hears."""
        is_final = self.wish.is_final(request.stage)
        if is_final and self.live is not None:
            watch = _Overheard(watch, self.live)
        asked = SampleRequest(
            messages=request.messages,
            max_tokens=request.max_tokens,
            seed=request.seed,
            temperature=request.temperature,
            top_p=request.top_p,
            priority=request.priority,
            stage=request.stage,
            fields=self._fields(request, is_final),
        )
        return asked, watch

    def _fields(self, request: SampleRequest, is_final: bool) -> dict[str, Any]:
        """Return what the body of a call holds beside ours."""
        conversation = self.wish.conversation
        at = conversation.asks_at
        messages = list(self._turns())
        question = conversation.content_with(request.messages[-1].content)
        messages[at] = {**messages[at], "content": question}
        # A continuation ends with an assistant turn of the machine's own.
        own = request.messages[at + 1 :]
        messages += [{"role": m.role, "content": m.content} for m in own]
        fields = {**self.wish.fields, "messages": messages}
        return {**fields, **self.wish.final_fields} if is_final else fields

    def _turns(self) -> list[dict[str, Any]]:
        """Return the client's turns as JSON values, the same for every call."""
        if not self.turns:
            turns = self.wish.conversation.turns
            self.turns = [
                {**turn.model_dump(exclude_none=True), "content": turn.content} for turn in turns
            ]
        return self.turns


class _Overheard(Watch):
    """A watch whose text a live answer hears as well."""

    def __init__(self, watch: Watch, live: LiveText) -> None:
        super().__init__(on_text=watch.on_text, cut=watch.cut)
        self.pieces = watch.pieces
        self._outer = watch
        self._live = live
        self._before = before_of(watch)
        live.restart(self._before)

    def add(self, text: str, num_tokens: int) -> None:
        """Take note of new text."""
        self._outer.add(text, num_tokens)
        self.num_tokens = self._outer.num_tokens
        self._live.feed(text)

    def restart(self) -> None:
        """Forget what came: the call is tried again."""
        self._outer.restart()
        self.num_tokens = 0
        self._live.restart(self._before)
