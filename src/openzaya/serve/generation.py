"""A request for completions, from its body to its answer or its stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openzaya.serve.answers import Shape
from openzaya.serve.chat import schemas_of
from openzaya.serve.errors import ApiError
from openzaya.serve.form import form_of, tools_of
from openzaya.serve.grammar import Constrained, check_kept
from openzaya.serve.jobs import Job
from openzaya.serve.open_turn import begun_answer, encode_chat
from openzaya.serve.reply import Delta, Reply, ReplyRules
from openzaya.serve.schema import ChatRequest, CompletionRequest
from openzaya.serve.service import Service
from openzaya.serve.stream import (
    DONE,
    HEARTBEAT,
    EventStream,
    event,
    json_response,
    unless_gone,
)

CLIENT_GONE = 499
"""Nobody reads this status; it names the case in the metrics."""
Charge = Callable[[int, str], None]
"""Takes what a request generated, in tokens, and how that is known."""


async def answer_chat(
    service: Service, request: Request, ask: ChatRequest, charge: Charge
) -> ASGIApp:
    """Answer a chat whose body was read."""
    service.driver.check_room(ask.n or 1)
    tools = tools_of(ask)
    ids, thinks = await service.encode(lambda: encode_chat(service.codec, ask, tools))
    form = form_of(ask, service.codec.tokenizer)
    constrained = None
    if form is not None:
        begun = begun_answer(ask)
        constrained = await asyncio.to_thread(
            service.grammars.constrained, form, thinks=thinks, begun=begun
        )
    rules = ReplyRules(
        stop_ids=service.codec.stop_ids,
        stops=ask.stops,
        thinks=thinks,
        schemas=schemas_of(tools),
        has_form=form is not None,
    )
    return await respond(service, request, ask, [ids], rules, charge, constrained)


async def answer_completion(
    service: Service, request: Request, ask: CompletionRequest, charge: Charge
) -> ASGIApp:
    """Answer a plain completion whose body was read."""
    service.driver.check_room(ask.n or 1)
    prompts = await service.encode(lambda: prompt_ids(service, ask))
    rules = ReplyRules(stop_ids=service.codec.stop_ids, stops=ask.stops, splits=False)
    return await respond(service, request, ask, prompts, rules, charge)


def prompt_ids(service: Service, ask: CompletionRequest) -> list[list[int]]:
    """Return the ids of every prompt; text may hold markers unless `parse_special` is off."""
    prompts = [ask.prompt] if isinstance(ask.prompt, str) else ask.prompt
    if isinstance(prompts[0], int):
        return [prompts]
    encode, special = service.codec.encode_text, ask.parse_special is not False
    return [encode(p, special) if isinstance(p, str) else p for p in prompts]


async def respond(
    service: Service,
    request: Request,
    ask: ChatRequest | CompletionRequest,
    prompts: Sequence[list[int]],
    rules: ReplyRules,
    charge: Charge,
    constrained: Constrained | None = None,
) -> ASGIApp:
    """Generate, and answer at once or as a stream; a client that leaves ends the generation.

    `charge` is told what was generated, however it ended.
    """
    asks = service.asks(ask, prompts, constrained)
    kind: Literal["chat", "text"] = "chat" if isinstance(ask, ChatRequest) else "text"
    name, created = Shape.new_id(kind)
    shape = Shape(
        kind=kind,
        model=service.model_name,
        tokenizer=service.codec.tokenizer,
        prompts=prompts,
        choices_per_prompt=ask.n or 1,
        logprobs=bool(ask.logprobs) if kind == "chat" else ask.logprobs is not None,
        token_ids=bool(ask.return_token_ids),
        include_usage=ask.stream_options is not None and bool(ask.stream_options.include_usage),
        id=name,
        created=created,
    )
    replies = [Reply(service.codec.tokenizer, rules) for _ in asks]
    tenant = service.keys.tenant(request.headers.get("authorization", ""))
    # From here on nothing may fail without `end`.
    job = service.driver.submit(asks, ask.priority or 0, tenant, service.config.queue_s)
    service.metrics.prompt_tokens.inc(sum(map(len, prompts)))

    def end(is_whole: bool) -> None:
        unread = sum(not replies[index].is_done for index, _ in job.unread)
        made = unread + sum(len(reply.events) for reply in replies)
        service.driver.abort(job)
        service.metrics.disconnects.inc(not is_whole and job.failure is None)
        service.metrics.generated_tokens.inc(made)
        charge(made, "engine")

    # A stream begins when it has a slot: a request that gets none is told so by its status.
    work = job.placed() if ask.stream else collect(service, job, replies)
    try:
        is_here = await unless_gone(work, request.receive)
    except BaseException:
        end(False)
        raise
    if is_here and ask.stream:
        parts = stream_parts(service, job, replies, shape)
        return EventStream(parts, end, service.config.slow_reader_s)
    end(is_here)
    return json_response(shape.whole(replies)) if is_here else Response(status_code=CLIENT_GONE)


async def additions(
    service: Service, job: Job, replies: Sequence[Reply]
) -> AsyncIterator[list[tuple[int, Delta]]]:
    """Yield what every token adds, until all choices are complete; empty lists while none comes."""
    left = len(replies)
    is_first = True
    while left:
        added = []
        for index, token in await job.events(service.config.heartbeat_s):
            reply = replies[index]
            if reply.is_done:
                continue
            delta = reply.feed(token)
            added.append((index, delta))
            if delta.is_last:
                left -= 1
                service.driver.stop(job, index)
                check_kept(job.asks[index].params.constraint)
        if added and is_first:
            is_first = False
            service.metrics.first_token_s.observe(monotonic() - job.began)
            service.metrics.queue_s.observe((job.placed_at or monotonic()) - job.began)
        yield added


async def collect(service: Service, job: Job, replies: Sequence[Reply]) -> None:
    """Wait until all replies are complete."""
    async for _ in additions(service, job, replies):
        pass


async def stream_parts(
    service: Service, job: Job, replies: Sequence[Reply], shape: Shape
) -> AsyncIterator[bytes]:
    """Yield the events of a stream. An error after its beginning is its last event."""
    openings = [shape.opening(index) for index in range(len(replies))]
    yield b"".join(event(opening) for opening in openings if opening is not None)
    num_calls = [0] * len(replies)
    tells_tokens = shape.logprobs or shape.token_ids
    try:
        async for added in additions(service, job, replies):
            out = []
            for index, delta in added:
                if delta.has_text or tells_tokens:
                    chunk = shape.addition(index, delta, num_calls[index])
                    out.append(event(chunk))
                num_calls[index] += len(delta.calls)
                if delta.is_last:
                    out.append(event(shape.ending(index, replies[index].finish_reason)))
            yield b"".join(out) or HEARTBEAT
    except ApiError as error:
        yield event(error.body)
        return
    if shape.include_usage:
        yield event(shape.usage_chunk(replies))
    yield DONE
