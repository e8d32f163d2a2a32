"""POST /v1/chat/completions: passed through, or answered by a run of test-time compute."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openzaya.core.errors import OpenZayaError
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.gateway.answer import Body, outcome_of
from openzaya.serve.gateway.backend import Who, Wish
from openzaya.serve.gateway.choice import Choice, arithmetic, choose
from openzaya.serve.gateway.failures import api_error
from openzaya.serve.gateway.limits import Need
from openzaya.serve.gateway.metered import Bill, Metered
from openzaya.serve.gateway.runs import LiveRun
from openzaya.serve.gateway.service import Gateway
from openzaya.serve.generation import CLIENT_GONE
from openzaya.serve.stream import DONE, HEARTBEAT, EventStream, event, json_response, unless_gone
from openzaya.ttc import preview

log = logging.getLogger("openzaya.gateway")
MAX_KEY_CHARS = 128
OPENING = {"role": "assistant", "content": ""}
CHARS_PER_TOKEN = 4
"""An estimate for the bucket of prompt tokens where nothing is encoded here."""


async def chat(gateway: Gateway, request: Request) -> ASGIApp:
    """Answer POST /v1/chat/completions."""
    arrived = monotonic()
    body = await gateway.read(request)
    who = gateway.who(request)
    choice = choose(body, gateway.backend.models)
    plain = {name: value for name, value in body.items() if name != "ttc"}
    if choice.config is None:
        backend = gateway.backend
        return await paid(
            gateway,
            who,
            plain,
            lambda bill: backend.pass_through(request, plain, choice, who, bill),
        )
    key = idempotency_key(request)
    if choice.options.background and key is None:
        raise bad_request(
            "ttc.background needs an Idempotency-Key header: it is how you get the answer later",
            "ttc.background",
        )
    wish = await gateway.backend.check(body, choice)
    check_budget(gateway, wish, who)
    run = await begin(gateway, wish, choice, who, key, request_hash(body))
    if wish.stream:
        return await streamed(gateway, run, wish, choice, arrived)
    return await whole(gateway, request, run, wish, choice)


async def complete(gateway: Gateway, request: Request) -> ASGIApp:
    """Answer POST /v1/completions."""
    body = await gateway.read(request)
    who = gateway.who(request)
    backend = gateway.backend
    return await paid(gateway, who, body, lambda bill: backend.complete(request, body, who, bill))


async def paid(
    gateway: Gateway,
    who: Who,
    body: Mapping[str, Any],
    answer: Callable[[Bill], Awaitable[ASGIApp]],
) -> ASGIApp:
    """Return an answer without a run that its key pays for; a refusal gives back what it took."""
    bill = Bill(gateway.purses.of(who.key).take(plain_need(body)), gateway.metrics)
    try:
        return Metered(await answer(bill), bill, gateway.metrics)
    except BaseException:
        bill.waive()
        raise


def plain_need(body: Mapping[str, Any]) -> Need:
    """Return what a request without test-time compute takes of its key."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    n = body.get("n") or 1
    counts = isinstance(limit, int) and isinstance(n, int)
    told = body.get("messages", body.get("prompt", ""))
    prompts = body.get("prompt")
    num_prompts = 1
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        num_prompts = len(prompts)
    return Need(
        prompt_tokens=len(str(told)) // CHARS_PER_TOKEN,
        output_tokens=max(0, limit * n * num_prompts) if counts else 0,
    )


def idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key header. Raises ApiError 400 for one that cannot be a key."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARS and key.isprintable()):
        raise bad_request(
            f"the Idempotency-Key has {len(key)} characters, expected 1 to {MAX_KEY_CHARS} "
            "printable ones",
            code="invalid_idempotency_key",
        )
    return key


def request_hash(body: Mapping[str, Any]) -> str:
    """Return what makes two requests the same."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_budget(gateway: Gateway, wish: Wish, who: Who) -> None:
    """Raise ApiError 400 for a run that may generate more than it is allowed to."""
    cap = preview(wish.config, wish.question_tokens).decode_cap
    most = min(gateway.config.max_run_tokens, who.key.allowance.run_tokens)
    if cap > most:
        raise bad_request(
            f"this run may generate {arithmetic(wish.config)} tokens (stages x candidates x "
            f"budget), and {most:,.0f} are allowed; lower num_candidates (N), rounds (T), "
            "budget_tokens or max_tokens",
            "ttc",
            "budget_exceeded",
        )


async def begin(
    gateway: Gateway, wish: Wish, choice: Choice, who: Who, key: str | None, body_hash: str
) -> LiveRun | str:
    """Return the run that answers, a new one or a known one; the id of one that has ended."""
    runs = gateway.runs
    known = None if key is None else await known_run(gateway, who, key, body_hash)
    if known is not None:
        return known
    runs.check_room(who)
    cap = preview(wish.config, wish.question_tokens).decode_cap
    need = Need(prompt_tokens=wish.question_tokens, output_tokens=cap)
    bill = Bill(gateway.purses.of(who.key).take(need), gateway.metrics)
    try:
        begun, spec = await runs.begin(wish, choice, who, key, body_hash)
        if not begun.is_new:
            known = runs.find(begun.run_id)
            if known is not None or begun.state == "done":
                bill.waive()
                return known or begun.run_id
            await gateway.journal.acquire(begun.run_id)
            spec = await gateway.journal.spec(begun.run_id)
        return runs.start(begun.run_id, spec, wish, choice, who=who, bill=bill)
    except OpenZayaError as error:
        bill.waive()
        raise api_error(error) from None
    except BaseException:
        bill.waive()
        raise


async def known_run(gateway: Gateway, who: Who, key: str, body_hash: str) -> LiveRun | str | None:
    """Return the run of a key that is under way here or done: it needs no room and no tokens."""
    try:
        found = await gateway.journal.find(who.tenant, key, body_hash)
    except OpenZayaError as error:
        raise api_error(error) from None
    if found is None:
        return None
    run = gateway.runs.find(found.run_id)
    if run is not None and run.task is not None and run.task.cancelling():
        await over(run)  # its last client has just left; this one goes on with it
        return None
    return run or (found.run_id if found.state == "done" else None)


def body_of(run_id: str, wish: Wish, choice: Choice, created: int) -> Body:
    """Return the shape of an answer; its id and time are the run's."""
    return Body(
        id=f"chatcmpl-{run_id}",
        created=created,
        model=choice.shown,
        wish=wish,
        counts_final_only=choice.options.usage == "final",
    )


async def whole(
    gateway: Gateway, request: Request, run: LiveRun | str, wish: Wish, choice: Choice
) -> ASGIApp:
    """Wait for a run and answer at once; a client that leaves ends the run."""
    run_id = run if isinstance(run, str) else run.id
    if isinstance(run, LiveRun):
        gateway.runs.join(run)
        try:
            if not await unless_gone(over(run), request.receive):
                return Response(status_code=CLIENT_GONE)
        finally:
            gateway.runs.leave(run)
        if run.error is not None:
            raise run.error
    try:
        outcome = await outcome_of(gateway.journal, run_id, wish)
    except OpenZayaError as error:
        raise api_error(error) from None
    body = body_of(run_id, wish, choice, outcome.created)
    return json_response(body.whole(outcome), headers={"X-Run-Id": run_id})


async def over(run: LiveRun) -> None:
    """Wait until a run has ended; leaving early does not end it."""
    if run.task is not None:
        await asyncio.wait((run.task,))


async def streamed(
    gateway: Gateway, run: LiveRun | str, wish: Wish, choice: Choice, arrived: float
) -> ASGIApp:
    """Answer with a stream; what goes wrong at once is an error with a status of its own."""
    left = False

    def end(_is_whole: bool) -> None:
        nonlocal left
        if isinstance(run, LiveRun) and not left:
            left = True
            gateway.runs.leave(run)

    if isinstance(run, LiveRun):
        gateway.runs.join(run)
        try:
            await run.news.wait(0, gateway.config.first_news_s)
            if run.error is not None:
                raise run.error
        except BaseException:
            end(False)
            raise
    gateway.metrics.first_byte.observe(monotonic() - arrived)
    stream = RunStream(gateway, run, wish, choice)
    run_id = run if isinstance(run, str) else run.id
    headers = {"X-Run-Id": run_id}
    return EventStream(stream.parts(), end, gateway.config.slow_reader_s, headers)


class RunStream:
    """The events of one stream over a run."""

    def __init__(self, gateway: Gateway, run: LiveRun | str, wish: Wish, choice: Choice) -> None:
        self._gateway = gateway
        self._run = run
        self._wish = wish
        self._progress = choice.options.progress
        self._id = run if isinstance(run, str) else run.id
        self._body = body_of(self._id, wish, choice, int(gateway.now()))
        self._line = ""
        self._told = ["", ""]

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the events; an error after the beginning is the last one."""
        yield event(self._body.chunk(OPENING))
        yield f": run {self._id}\n\n".encode()
        run = self._run
        if isinstance(run, LiveRun):
            async for part in self._while_it_runs(run):
                yield part
            if run.error is not None:
                yield event(run.error.body)
                return
        try:
            yield await self._ending()
        except ApiError as error:
            yield event(error.body)
        except OpenZayaError as error:
            yield event(api_error(error).body)

    async def _while_it_runs(self, run: LiveRun) -> AsyncIterator[bytes]:
        """Yield progress, the answer as it grows, and a comment when there is no news."""
        sent = monotonic()
        while True:
            seen = run.news.version
            news = self._progress_of(run) + self._text_of(run)
            if news:
                yield news
                sent = monotonic()
            if run.is_over:
                return
            patience_s = self._gateway.config.heartbeat_s - (monotonic() - sent)
            if patience_s <= 0 or not await run.news.wait(seen, patience_s):
                yield HEARTBEAT
                sent = monotonic()

    def _progress_of(self, run: LiveRun) -> bytes:
        if self._progress == "none" or run.line == self._line or run.is_over:
            return b""
        self._line = run.line
        if self._progress == "comments":
            return f": {self._line}\n\n".encode()
        return event(self._body.chunk({"reasoning_content": f"{self._line}\n"}))

    def _text_of(self, run: LiveRun) -> bytes:
        """Return what the answer's live text has more than was told."""
        live = run.live
        if live is None:
            return b""
        return self._deltas(live.reasoning, live.content)

    def _deltas(self, reasoning: str, content: str, index: int = 0) -> bytes:
        out = b""
        for at, (name, text) in enumerate((("reasoning_content", reasoning), ("content", content))):
            if len(text) > len(self._told[at]):
                out += event(self._body.chunk({name: text[len(self._told[at]) :]}, index))
                self._told[at] = text
        return out

    async def _ending(self) -> bytes:
        """Return the rest of the answer, why it ended, and what it cost."""
        outcome = await outcome_of(self._gateway.journal, self._id, self._wish)
        out = b""
        for index, final in enumerate(outcome.finals):
            message = self._body.message(final)
            reasoning = message.get("reasoning_content") or ""
            content = message["content"] or ""
            if index == 0:
                self._check_told(reasoning, content)
            else:
                self._told = ["", ""]
                out += event(self._body.chunk(OPENING, index))
            out += self._deltas(reasoning, content, index)
            calls = message.get("tool_calls") or []
            if calls:
                told = [{"index": at, **call} for at, call in enumerate(calls)]
                out += event(self._body.chunk({"tool_calls": told}, index))
            ending = self._body.chunk({}, index, self._body.reason(final, bool(calls)))
            if index == len(outcome.finals) - 1:
                ending["ttc"] = dict(outcome.facts)
            out += event(ending)
        if self._wish.include_usage:
            usage = self._body.chunk(None)
            usage["usage"] = self._body.usage(outcome)
            out += event(usage)
        return out + DONE

    def _check_told(self, reasoning: str, content: str) -> None:
        """Refuse to go on when the answer is not what was streamed of it."""
        if reasoning.startswith(self._told[0]) and content.startswith(self._told[1]):
            return
        raise ApiError(
            502,
            "a call was made again after its text had been streamed, and said something else; ask "
            "again without stream",
            code="stream_torn",
        )
