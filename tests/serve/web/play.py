"""A server that plays recorded runs at the addresses of the gateway, as fast as a test lets it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from serve.web.recorded_runs import Recording
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from openzaya.core.errors import ConfigError
from openzaya.serve.web import CONTENT_TYPE, content_security_policy, page
from openzaya.ttc import DEFAULT_PRESET, MarkovianRSAConfig, presets, preview

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
        run = {**recording.events[0][2], "state": "running" if told else "queued", "elapsed_s": at}
        return {
            **recording.run, "run": run, "stages": stages, "winner": None, "notes": [],
            "candidates": list(candidates.values()),
        }  # fmt: skip


def create_player(player: Player) -> Starlette:
    """Return the application."""

    def refuse(status: int, message: str) -> Response:
        return JSONResponse({"error": {"message": message, "type": "x"}}, status)

    async def index(_request: Request) -> Response:
        policy = {"Content-Security-Policy": content_security_policy()}
        return Response(page(), headers=policy, media_type=CONTENT_TYPE)

    async def models(_request: Request) -> Response:
        names = ["zaya1-8b", *(f"zaya1-8b:mrsa-{name}" for name in presets), "qwen3-4b"]
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    async def list_presets(_request: Request) -> Response:
        rows = [
            {"name": name, "config": asdict(config), "is_default": name == DEFAULT_PRESET}
            for name, config in presets.items()
        ]
        return JSONResponse({"object": "list", "data": rows})

    def settings(body: dict[str, Any]) -> MarkovianRSAConfig:
        changes = {k: v for k, v in body["ttc"].items() if k != "preset"}
        return MarkovianRSAConfig(**{**asdict(presets[body["ttc"]["preset"]]), **changes})

    async def show_preview(request: Request) -> Response:
        body = await request.json()
        try:
            config = settings(body)
        except ConfigError as error:
            return refuse(400, str(error))
        tokens = len(body["messages"][-1]["content"]) // 3
        return JSONResponse(asdict(preview(config, tokens, mean_tokens=8_000)))

    async def list_runs(request: Request) -> Response:
        rows = [player.detail(run_id)["run"] for run_id in player.runs]
        rows.sort(key=lambda run: -run["created"])
        wanted = request.query_params.get("state")
        rows = [run for run in rows if wanted in (None, run["state"])]
        before = request.query_params.get("before")
        ids = [run["id"] for run in rows]
        begin = ids.index(before) + 1 if before else 0
        end = begin + int(request.query_params["limit"])
        return JSONResponse(
            {"object": "list", "data": rows[begin:end], "has_more": end < len(rows)}
        )

    async def show_run(request: Request) -> Response:
        run_id = request.path_params["id"]
        if run_id not in player.runs:
            return refuse(404, "there is no such run")
        return JSONResponse(player.detail(run_id))

    async def show_candidate(request: Request) -> Response:
        where = request.path_params
        for c in player.runs[where["id"]].candidates:
            if (c["stage"], c["slot"]) == (where["stage"], where["slot"]):
                return JSONResponse(c)
        return refuse(404, "there is no such candidate")

    async def show_events(request: Request) -> Response:
        run_id = request.path_params["id"]
        last = request.headers.get("Last-Event-ID")
        player.last_ids.append(last)
        is_torn = player.breaks > 0
        player.breaks -= is_torn

        async def parts() -> AsyncIterator[str]:
            sent = int(last or 0)
            first = sent
            while sent < len(player.runs[run_id].events):
                for _, name, data in player.told(run_id)[sent:]:
                    sent += 1
                    yield f"id: {sent}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
                    if is_torn and sent >= first + 5:
                        return
                await asyncio.sleep(POLL_S)

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def cancel(request: Request) -> Response:
        player.cancelled.append(request.path_params["id"])
        return JSONResponse({"cancelled": True})

    async def chat(request: Request) -> Response:
        body = await request.json()
        player.asked.append(body)
        run_id = next(iter(player.live), None)
        if run_id is None:
            return refuse(429, "too many runs; try again in 5 seconds")

        async def parts() -> AsyncIterator[str]:
            yield f'data: {{"id": "chatcmpl-{run_id}", "choices": []}}\n\n'
            while len(player.told(run_id)) < len(player.runs[run_id].events):
                yield ": still here\n\n"
                await asyncio.sleep(POLL_S)
            yield "data: [DONE]\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    app = Starlette(
        routes=[
            Route("/", index),
            Route("/v1/models", models),
            Route("/v1/ttc/presets", list_presets),
            Route("/v1/ttc/preview", show_preview, methods=["POST"]),
            Route("/v1/ttc/runs", list_runs),
            Route("/v1/ttc/runs/{id}", show_run),
            Route("/v1/ttc/runs/{id}/candidates/{stage:int}/{slot:int}", show_candidate),
            Route("/v1/ttc/runs/{id}/events", show_events),
            Route("/v1/ttc/runs/{id}/cancel", cancel, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers") or []).get(b"authorization", b"").decode()
        is_open = scope["type"] != "http" or scope["path"] == "/" or player.key is None
        if is_open or given == f"Bearer {player.key}":
            await app(scope, receive, send)
        else:
            await refuse(401, "a key is needed")(scope, receive, send)

    return guarded  # type: ignore[return-value]
