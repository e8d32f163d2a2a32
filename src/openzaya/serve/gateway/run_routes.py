"""The routes under /v1/ttc: presets, previews, runs, their candidates and events, cancel.

A run is visible to the key that started it, and to keys with the right `admin`.
"""

import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openzaya.core.config import to_mapping
from openzaya.core.errors import OpenZayaError
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.gateway.choice import Choice, arithmetic, choose, names_of
from openzaya.serve.gateway.failures import api_error
from openzaya.serve.gateway.heartbeat import with_heartbeat
from openzaya.serve.gateway.service import Gateway
from openzaya.serve.stream import EventStream, json_response, to_json
from openzaya.ttc import DEFAULT_PRESET, MarkovianRSAConfig, presets, preview, strategies
from openzaya.ttc.journal import JournalDamagedError, JournalError, JournalEvent

MAX_PAGE = 200
STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SLOT = re.compile(r"[0-9]{1,4}")
_SEQ = re.compile(r"[0-9]{1,15}")


async def list_presets(gateway: Gateway, _request: Request) -> Response:
    """Answer GET /v1/ttc/presets."""
    data = [
        {
            "name": name,
            "models": [f"{model}:mrsa-{name}" for model in gateway.backend.models],
            "is_default": name == DEFAULT_PRESET,
            "config": to_mapping(config),
            "preview": asdict(preview(config, 0)),
            "arithmetic": arithmetic(config),
        }
        for name, config in presets.items()
    ]
    told = [{"name": found.name, "summary": found.summary} for found in strategies.values()]
    return json_response({"object": "list", "data": data, "strategies": told})


async def show_preview(gateway: Gateway, request: Request) -> Response:
    """Answer POST /v1/ttc/preview: what the same body would cost as a chat. Nothing runs."""
    body = await gateway.read(request)
    choice = choose(body, gateway.backend.models)
    if choice.config is None:
        body = {**body, "ttc": {}}
        choice = choose(body, gateway.backend.models)
    if body.get("messages"):
        wish = await gateway.backend.check(body, choice)
        config, question_tokens = wish.config, wish.question_tokens
    else:
        assert choice.config is not None
        config, question_tokens = choice.config, 0
    return json_response(previewed(gateway, request, choice, config, question_tokens))


def previewed(
    gateway: Gateway,
    request: Request,
    choice: Choice,
    config: MarkovianRSAConfig,
    question_tokens: int,
) -> dict[str, Any]:
    """Return the bounds of a run, what it is expected to cost, and whether it is allowed."""
    law = gateway.lengths.law(choice.model)
    bounds = preview(config, question_tokens, lengths=None if law is None else law.values)
    most = min(gateway.config.max_run_tokens, gateway.who(request).key.allowance.run_tokens)
    return {
        "object": "ttc.preview",
        "model": choice.model,
        "preset": choice.preset,
        "strategy": choice.strategy,
        "config": to_mapping(config),
        "question_tokens": question_tokens,
        "mean_tokens": None if law is None else law.mean_within(math.inf),
        **asdict(bounds),
        "arithmetic": arithmetic(config),
        "max_run_tokens": int(most),
        "is_allowed": bounds.decode_cap <= most,
    }


async def list_runs(gateway: Gateway, request: Request) -> Response:
    """Answer GET /v1/ttc/runs?limit&before&state, newest first."""
    query = request.query_params
    limit = query.get("limit", "50")
    if not _SLOT.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise bad_request(f"limit: expected a whole number from 1 to {MAX_PAGE}", "limit")
    state, before = query.get("state") or None, query.get("before") or None
    if state is not None and state not in STATES:
        raise bad_request(f"state: expected one of {', '.join(STATES)}", "state")
    if before is not None and not _RUN_ID.fullmatch(before):
        raise bad_request("before: expected the id of a run", "before")
    who = gateway.who(request)
    tenant = None if who.is_admin else who.tenant
    try:
        found = await gateway.journal.runs(int(limit) + 1, before, state, tenant=tenant)
    except OpenZayaError as error:
        raise api_error(error) from None
    has_more = len(found) > int(limit)
    return json_response({"object": "list", "data": found[: int(limit)], "has_more": has_more})


async def show_run(gateway: Gateway, request: Request) -> Response:
    """Answer GET /v1/ttc/runs/ID."""
    run_id = await visible(gateway, request)
    try:
        return json_response(await gateway.journal.run(run_id))
    except OpenZayaError as error:
        raise api_error(error) from None


async def show_candidate(gateway: Gateway, request: Request) -> Response:
    """Answer GET /v1/ttc/runs/ID/candidates/STAGE/SLOT."""
    run_id = await visible(gateway, request)
    stage, slot = request.path_params["stage"], request.path_params["slot"]
    if not _SLOT.fullmatch(stage) or not _SLOT.fullmatch(slot):
        raise ApiError(404, "there is no such candidate", code="not_found")
    try:
        return json_response(await gateway.journal.candidate(run_id, int(stage), int(slot)))
    except OpenZayaError as error:
        raise api_error(error) from None


async def cancel_run(gateway: Gateway, request: Request) -> Response:
    """Answer POST /v1/ttc/runs/ID/cancel; a run that had ended stays as it is."""
    run_id = await visible(gateway, request)
    try:
        was_live = await gateway.runs.cancel(run_id)
    except OpenZayaError as error:
        raise api_error(error) from None
    return json_response({"id": run_id, "object": "ttc.run", "cancelled": was_live})


async def show_events(gateway: Gateway, request: Request) -> ASGIApp:
    """Answer GET /v1/ttc/runs/ID/events: all of them, or those after Last-Event-ID."""
    run_id = await visible(gateway, request)
    last = request.headers.get("last-event-id", "0") or "0"
    if not _SEQ.fullmatch(last):
        raise bad_request("Last-Event-ID: expected the id of an event of this run")
    parts = events_of(gateway, run_id, int(last))
    return EventStream(parts, lambda _whole: None, gateway.config.slow_reader_s)


async def events_of(gateway: Gateway, run_id: str, after: int) -> AsyncIterator[bytes]:
    """Yield the events of a run as they come, with comments in between; ends after `done`."""
    yield b": events\n\n"
    following = gateway.journal.follow(run_id, after)
    try:
        async for part in with_heartbeat(following, gateway.config.heartbeat_s):
            yield part if isinstance(part, bytes) else encoded(part)
    except OpenZayaError as error:
        yield b"event: error\ndata: " + to_json(api_error(error).body) + b"\n\n"


def encoded(told: JournalEvent) -> bytes:
    """Return one event of the journal as a server-sent event."""
    head = f"id: {told.seq}\nevent: {told.kind}\ndata: ".encode()
    return head + to_json(told.data) + b"\n\n"


async def visible(gateway: Gateway, request: Request) -> str:
    """Return the id of the run in the address. Raises ApiError 404 unless the bearer may see it.

    A run of somebody else and no run at all are told in the same words.
    """
    run_id = str(request.path_params["run"])
    who = gateway.who(request)
    if _RUN_ID.fullmatch(run_id):
        try:
            spec = await gateway.journal.spec(run_id)
            if who.is_admin or spec.tenant == who.tenant:
                return run_id
        except OpenZayaError as error:
            if isinstance(error, JournalError) and not isinstance(error, JournalDamagedError):
                raise api_error(error) from None  # whosever it is: nothing can be read
    raise ApiError(404, "there is no such run", code="run_not_found")


async def list_models(gateway: Gateway, _request: Request) -> Response:
    """Answer GET /v1/models: every model, and every model with every preset."""
    return json_response({"object": "list", "data": list(cards(gateway).values())})


async def show_model(gateway: Gateway, request: Request) -> Response:
    """Answer GET /v1/models/NAME."""
    found = cards(gateway).get(request.path_params["model"])
    if found is None:
        raise ApiError(
            404, "this server has no model of that name", param="model", code="model_not_found"
        )
    return json_response(found)


def cards(gateway: Gateway) -> Mapping[str, dict[str, Any]]:
    """Return what is said of every name."""
    plain = {model: gateway.backend.card(model) for model in gateway.backend.models}
    named = {
        name: {**plain[model], "id": name, "owned_by": "openzaya"}
        for model in plain
        for name in names_of(model)
    }
    return plain | named
