"""Runs on the engine of this process: its calls go beside plain requests, through one driver."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.types import ASGIApp

from openzaya.core.errors import ContextLengthError, EngineError, RequestError
from openzaya.core.records import Completion, FinishReason, Message, SampleRequest, Watch
from openzaya.serve import generation
from openzaya.serve.chat import schemas_of
from openzaya.serve.engine_routes import card
from openzaya.serve.errors import ApiError
from openzaya.serve.form import form_of, tools_of
from openzaya.serve.form_schema import demands_call
from openzaya.serve.gateway.backend import Charge, Who, Wish, check_alone
from openzaya.serve.gateway.choice import Choice, shaped
from openzaya.serve.gateway.conversation import Conversation
from openzaya.serve.gateway.live_text import LiveText
from openzaya.serve.gateway.turns import Turns
from openzaya.serve.grammar import check_kept
from openzaya.serve.jobs import Ask, Job
from openzaya.serve.openapi import POSTS
from openzaya.serve.reply import Reply, ReplyRules
from openzaya.serve.schema import ChatRequest, CompletionRequest, reader
from openzaya.serve.service import Service
from openzaya.serve.stream import Detokenizer
from openzaya.text.markers import THINK_CLOSE
from openzaya.text.think import all_answer
from openzaya.ttc.continuing import before_of, written

BUSY_S = 0.2
"""How long a call waits when plain requests have filled the queue."""
T = TypeVar("T")


class EngineBackend:
    """Our engine behind the server's own routes."""

    posts = POSTS

    def __init__(self, service: Service, *, max_slots: int, run_share: float) -> None:
        self.service = service
        self.turns = Turns(max_slots, run_share)
        self.models: Sequence[str] = (service.model_name,)

    def card(self, model: str) -> dict[str, Any]:
        """Return what GET /v1/models says of the model."""
        return {**card(self.service), "id": model}

    async def check(self, body: dict[str, Any], choice: Choice) -> Wish:
        """Return the wish in a body; every field is checked as strictly as without `ttc`."""
        assert choice.config is not None
        plain = {name: value for name, value in body.items() if name != "ttc"}
        ask = reader(ChatRequest)({**plain, "model": choice.model})
        check_alone(ask)
        conversation = Conversation.of(ask.messages)
        tools = tools_of(ask)
        form = form_of(ask, self.service.codec.tokenizer)
        if form is not None:  # what cannot be kept is refused before any work
            await asyncio.to_thread(self.service.grammars.constrained, form, thinks=False)
        wants_json = ask.response_format is not None and ask.response_format.type != "text"
        question = await self.service.encode(
            lambda: self.service.codec.encode(ask.messages, tools, ask.thinks)
        )
        self.service.room(question, None, "messages")
        return Wish(
            conversation=conversation,
            config=shaped(
                choice.config,
                temperature=ask.temperature,
                top_p=ask.top_p,
                limit=ask.limit,
                n=ask.n or 1,
                has_form=tools is not None or wants_json,
            ),
            n=ask.n or 1,
            stream=bool(ask.stream),
            include_usage=ask.stream_options is not None and bool(ask.stream_options.include_usage),
            seed=ask.seed,
            stops=ask.stops,
            tools=schemas_of(tools),
            wants_json=wants_json,
            must_call=demands_call(ask.tool_choice),
            form=form,
            priority=ask.priority or 0,
            question_tokens=len(question),
            body=ask,
        )

    def sampler(
        self,
        wish: Wish,
        model: str,  # noqa: ARG002
        run: int,
        who: Who,
        live: LiveText | None,
    ) -> "EngineSampler":
        """Return the sampler of one run."""
        return EngineSampler(self, wish, run, who, live)

    async def pass_through(
        self,
        request: Request,
        body: dict[str, Any],
        choice: Choice,
        who: Who,  # noqa: ARG002
        charge: Charge,
    ) -> ASGIApp:
        """Answer a chat as the server does without a gateway."""
        ask = reader(ChatRequest)({**body, "model": choice.model})
        return await generation.answer_chat(self.service, request, ask, charge)

    async def complete(
        self,
        request: Request,
        body: dict[str, Any],
        who: Who,  # noqa: ARG002
        charge: Charge,
    ) -> ASGIApp:
        """Answer a plain completion."""
        ask = reader(CompletionRequest)(body)
        self.service.check_model(ask.model)
        return await generation.answer_completion(self.service, request, ask, charge)

    def status(self) -> dict[str, Any]:
        """Return the engine's state in the words of an upstream's."""
        driver = self.service.driver
        state = "failed" if driver.failure else "ok"
        told = {
            "url": "in process",
            "model": self.service.model_name,
            "state": "open" if driver.failure else "up",
            "limit": self.turns.limit,
            "in_flight": driver.num_in_flight,
            "waiting": self.turns.num_waiting,
        }
        return {"status": state, "upstreams": [told]}

    def drain(self) -> None:
        """Take no more requests."""
        self.service.driver.draining = True


@dataclass(slots=True)
class EngineSampler:
    """The calls of one run on the engine; meets `core.protocols.WatchedSampler`."""

    backend: EngineBackend
    wish: Wish
    run: int
    who: Who
    live: LiveText | None
    tail_method: str = "exact"
    counts_exactly: bool = True
    has_begun: bool = False
    """Whether any call got a slot."""
    broken_tokens: int = 0
    """Generated by calls that were cancelled."""

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus reply, in tokens."""
        return self.backend.service.context_tokens

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the length of the prompt that `messages` become."""
        return len(self._encode(messages[-1].content, is_final=True))

    def last_tokens(self, text: str, count: int) -> str:
        """Return the suffix of `text` that is at most `count` tokens long."""
        return self.backend.service.codec.tokenizer.last_tokens(text, count)

    def _encode(self, question: str, is_final: bool) -> list[int]:
        ask: ChatRequest = self.wish.body
        turns = [
            turn if turn.content is content else turn.model_copy(update={"content": content})
            for turn, content in self.wish.conversation.contents_with(question)
        ]
        tools = ask.tools if is_final and self.wish.tools is not None else None
        return self.backend.service.codec.encode(turns, tools, ask.thinks)

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion. Raises ContextLengthError, EngineError."""
        return await self.sample_watched(request, Watch())

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, or what there is of it once `watch.cut` is set."""
        return await self.sample_continuation(request, "", watch)

    def first_tokens(self, text: str, count: int) -> str:
        """Return the prefix of `text` that is at most `count` tokens long."""
        return self.backend.service.codec.tokenizer.first_tokens(text, count)

    @property
    def can_continue(self) -> bool:
        """Whether turns can begin inside a think block: there must be one."""
        return bool(self.wish.body.thinks)

    async def sample_continuation(
        self, request: SampleRequest, opening: str, watch: Watch
    ) -> Completion:
        """Complete a turn that begins with `opening`; the completion is what comes after it."""
        service = self.backend.service
        is_final = self.wish.is_final(request.stage)
        thinks = self.wish.body.thinks and THINK_CLOSE not in opening
        try:
            ask = await service.encode(lambda: self._ask(request, opening, is_final, thinks))
        except ApiError as error:
            kind = ContextLengthError if error.code == "context_length_exceeded" else RequestError
            raise kind(error.message) from None
        weight = self.who.key.allowance.weight
        place = self.backend.turns.place(
            self.run, self.wish.priority, tenant=self.who.tenant, weight=weight
        )
        async with place:
            job = await self._submit(ask)
            try:
                return await self._collect(job, watch, is_final, thinks)
            except ApiError as error:
                raise EngineError(error.message) from None
            except asyncio.CancelledError:
                self.broken_tokens += written(watch) + len(job.unread)
                raise
            finally:
                service.driver.abort(job)
                service.metrics.prompt_tokens.inc(len(ask.prompt))

    def _ask(self, request: SampleRequest, opening: str, is_final: bool, thinks: bool) -> Ask:
        """Return the call: the client's sampling fields with the run's length, heat and seed."""
        service = self.backend.service
        prompt = self._encode(request.messages[-1].content, is_final)
        if opening:
            prompt += service.codec.encode_text(opening, parse_special=True)
        constrained = None
        if is_final and self.wish.form is not None:
            begun = opening.partition(THINK_CLOSE)[2].lstrip("\n")
            constrained = service.grammars.constrained(self.wish.form, thinks=thinks, begun=begun)
        body: ChatRequest = self.wish.body
        own = body.model_copy(
            update={
                "temperature": request.temperature,
                "top_p": request.top_p,
                "thinking_token_budget": body.think_budget if is_final else None,
                "reasoning_effort": None,
                "max_tokens": request.max_tokens,
                "max_completion_tokens": None,
                "n": 1,
                "seed": request.seed % (1 << 63),
            }
        )
        return service.asks(own, [prompt], constrained)[0]

    async def _submit(self, ask: Ask) -> Job:
        """Queue the call, when plain requests leave room."""
        while True:
            try:
                return self.backend.service.driver.submit(
                    [ask], self.wish.priority, self.who.tenant
                )
            except ApiError as error:
                if error.status != 429:
                    raise EngineError(error.message) from None
            await asyncio.sleep(BUSY_S)

    async def _collect(self, job: Job, watch: Watch, is_final: bool, thinks: bool) -> Completion:
        """Follow a call to its end. Raises ApiError for a form that could not be kept."""
        service = self.backend.service
        stop_ids = service.codec.stop_ids
        if is_final and self.live is not None:
            self.live.restart(before_of(watch))
        detokenizer = Detokenizer(service.codec.tokenizer)
        rules = ReplyRules(
            stop_ids=stop_ids,
            stops=self.wish.stops if is_final else (),
            thinks=thinks,
            has_form=is_final and self.wish.form is not None,
        )
        reply = Reply(service.codec.tokenizer, rules)
        cut = asyncio.create_task(watch.cut.wait())
        try:
            await _unless_cut(job.placed(), cut)
            self.has_begun |= job.placed_at is not None
            while not (reply.is_done or watch.cut.is_set()):
                for _, event in await _unless_cut(job.events(3600.0), cut) or ():
                    reply.feed(event)
                    is_text = event.finish_reason != "stop" or event.token_id not in stop_ids
                    text = detokenizer.feed(event.token_id) if is_text else ""
                    watch.add(text, 1)
                    if is_final and self.live is not None and text:
                        self.live.feed(text)
                    if event.finish_reason is not None or reply.hit_stop_string:
                        break
        finally:
            cut.cancel()
            service.metrics.generated_tokens.inc(len(reply.events))
        check_kept(job.asks[0].params.constraint)
        text = _text_of(reply) if reply.hit_stop_string else "".join(watch.pieces)
        return Completion(
            text=text if thinks else all_answer(text),
            num_tokens=len(reply.events),
            finish_reason=_reason_of(reply),
            num_prompt_tokens=len(job.asks[0].prompt),
            token_ids=tuple(event.token_id for event in reply.events),
            started_in_think=thinks,
            logprobs=tuple(event.logprob for event in reply.events),
        )


async def _unless_cut(work: Coroutine[Any, Any, T], cut: "asyncio.Task[bool]") -> T | None:
    """Return what `work` gives; None when `cut` comes first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, cut), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()


def _reason_of(reply: Reply) -> FinishReason:
    """Return why a reply ended; "abort" when it was cut."""
    return cast(FinishReason, reply.finish_reason or "abort")


def _text_of(reply: Reply) -> str:
    """Return the text up to a stop string as a model would have written it."""
    if not reply.reasoning:
        return f"</think>{reply.content}" if reply.content else ""
    return f"{reply.reasoning}\n</think>\n\n{reply.content}"
