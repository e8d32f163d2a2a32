"""A server that plays recorded runs at the addresses of the gateway, as fast as a test lets it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from serve.web.recorded_runs import Recording
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from openzaya.core.errors import ConfigError
from openzaya.serve.web import CONTENT_TYPE, content_security_policy, page
from openzaya.ttc import DEFAULT_PRESET, presets, preview

POLL_S = 0.01


@dataclass
class Player:
    """What the server knows, and what it was asked; a test reads and sets it."""

    runs: dict[str, Recording] = field(default_factory=dict)
    url: str = ""
    live: dict[str, int] = field(default_factory=dict)
    """Runs that are not over yet: how many of their events may be told."""
    key: str | None = None
    breaks: int = 0
    """How many event streams shall break after a few events."""
    last_ids: list[str | None] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    is_away: bool = False
    """Whether a proxy answers that the server is down."""
    is_held: bool = False
    """Whether candidates are kept back."""
    gone: set[str] = field(default_factory=set)
    """Live runs on which nobody works any more."""

    def add(self, recording: Recording, told: int | None = None) -> Recording:
        """Know a run; `told` makes it a live one of which so many events are out."""
        self.runs[recording.id] = recording
        if told is not None:
            self.live[recording.id] = told
        return recording

    def tell(self, run_id: str, count: int | None = None) -> None:
        """Let more events out; all that are left by default."""
        whole = len(self.runs[run_id].events)
        self.live[run_id] = whole if count is None else min(whole, self.live[run_id] + count)

    def told(self, run_id: str) -> list[tuple[float, str, Any]]:
        events = self.runs[run_id].events
        return events[: self.live.get(run_id, len(events))]

    def detail(self, run_id: str) -> dict[str, Any]:
        """Return the run as its journal stands after the events told so far."""
        recording = self.runs[run_id]
        told = self.told(run_id)
        if len(told) == len(recording.events):
            return recording.run
        candidates: dict[tuple[int, int], Any] = {}
        stages = []
        for _, name, data in told:
            if name == "candidate":
                candidates[data["stage"], data["slot"]] = data
            elif name == "stage":
                stages.append(data)
        at = told[-1][0] if told else 0.0
        state = "interrupted" if run_id in self.gone else "running" if told else "queued"
        run = {**recording.events[0][2], "state": state, "elapsed_s": at}
        return {
            **recording.run, "run": run, "stages": stages, "winner": None, "notes": [],
            "candidates": list(candidates.values()),
        }  # fmt: skip

    def is_over(self, run_id: str) -> bool:
        return len(self.told(run_id)) == len(self.runs[run_id].events)

    async def stream(self, run_id: str, after: int, most: int | None) -> AsyncIterator[str]:
        """Tell the events after number `after` as they come out, or the first `most` of them."""
        sent = after
        while sent < len(self.runs[run_id].events):
            for _, name, data in self.told(run_id)[sent:]:
                sent += 1
                yield f"id: {sent}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
                if most is not None and sent >= after + most:
                    return
            if run_id in self.gone:
                return
            await asyncio.sleep(POLL_S)


def create_player(player: Player) -> ASGIApp:
    """Return the application."""
    at = _Addresses(player)
    app = Starlette(
        routes=[
            Route("/", at.index),
            Route("/v1/models", at.models),
            Route("/v1/ttc/presets", at.presets),
            Route("/v1/ttc/preview", at.preview, methods=["POST"]),
            Route("/v1/ttc/runs", at.list_runs),
            Route("/v1/ttc/runs/{id}", at.run),
            Route("/v1/ttc/runs/{id}/candidates/{stage:int}/{slot:int}", at.candidate),
            Route("/v1/ttc/runs/{id}/events", at.events),
            Route("/v1/ttc/runs/{id}/cancel", at.cancel, methods=["POST"]),
            Route("/v1/chat/completions", at.chat, methods=["POST"]),
        ]
    )

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers") or []).get(b"authorization", b"").decode()
        is_open = scope["type"] != "http" or scope["path"] == "/" or player.key is None
        if player.is_away:
            await refuse(503, "the server is down")(scope, receive, send)
        elif is_open or given == f"Bearer {player.key}":
            await app(scope, receive, send)
        else:
            await refuse(401, "a key is needed")(scope, receive, send)

    return guarded


def refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x"}}, status)


class _Addresses:
    """What each address answers."""

    def __init__(self, player: Player) -> None:
        self.player = player

    async def index(self, _request: Request) -> Response:
        policy = {"Content-Security-Policy": content_security_policy()}
        return Response(page(), headers=policy, media_type=CONTENT_TYPE)

    async def models(self, _request: Request) -> Response:
        names = ["zaya1-8b", *(f"zaya1-8b:mrsa-{name}" for name in presets), "qwen3-4b"]
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    async def presets(self, _request: Request) -> Response:
        rows = [
            {"name": name, "config": asdict(config), "is_default": name == DEFAULT_PRESET}
            for name, config in presets.items()
        ]
        return JSONResponse({"object": "list", "data": rows})

    async def preview(self, request: Request) -> Response:
        body = await request.json()
        changes = {k: v for k, v in body["ttc"].items() if k != "preset"}
        try:
            config = replace(presets[body["ttc"]["preset"]], **changes)
        except ConfigError as error:
            return refuse(400, str(error))
        tokens = len(body["messages"][-1]["content"]) // 3
        return JSONResponse(asdict(preview(config, tokens, mean_tokens=8_000)))

    async def list_runs(self, request: Request) -> Response:
        rows = [self.player.detail(run_id)["run"] for run_id in self.player.runs]
        rows.sort(key=lambda run: -run["created"])
        wanted = request.query_params.get("state")
        rows = [run for run in rows if wanted in (None, run["state"])]
        before = request.query_params.get("before")
        begin = [run["id"] for run in rows].index(before) + 1 if before else 0
        end = begin + int(request.query_params["limit"])
        data = rows[begin:end]
        return JSONResponse({"object": "list", "data": data, "has_more": end < len(rows)})

    async def run(self, request: Request) -> Response:
        run_id = request.path_params["id"]
        if run_id not in self.player.runs:
            return refuse(404, "there is no such run")
        return JSONResponse(self.player.detail(run_id))

    async def candidate(self, request: Request) -> Response:
        where = request.path_params
        while self.player.is_held:
            await asyncio.sleep(POLL_S)
        for c in self.player.runs[where["id"]].candidates:
            if (c["stage"], c["slot"]) == (where["stage"], where["slot"]):
                return JSONResponse(c)
        return refuse(404, "there is no such candidate")

    async def events(self, request: Request) -> Response:
        run_id = request.path_params["id"]
        last = request.headers.get("Last-Event-ID")
        self.player.last_ids.append(last)
        is_torn = self.player.breaks > 0
        self.player.breaks -= is_torn
        parts = self.player.stream(run_id, int(last or 0), 5 if is_torn else None)
        return StreamingResponse(parts, media_type="text/event-stream")

    async def cancel(self, request: Request) -> Response:
        self.player.cancelled.append(request.path_params["id"])
        return JSONResponse({"cancelled": True})

    async def chat(self, request: Request) -> Response:
        self.player.asked.append(await request.json())
        run_id = next(iter(self.player.live), None)
        if run_id is None:
            return refuse(429, "too many runs; try again in 5 seconds")

        async def parts() -> AsyncIterator[str]:
            while not self.player.is_over(run_id):
                yield ": still here\n\n"
                await asyncio.sleep(POLL_S)
            yield "data: [DONE]\n\n"

        headers = {"X-Run-Id": run_id}
        return StreamingResponse(parts(), headers=headers, media_type="text/event-stream")
