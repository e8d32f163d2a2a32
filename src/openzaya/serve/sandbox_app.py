"""The sandbox as a server: programs come in by POST /run_code and run in boxes of this machine."""

import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from openzaya.core.errors import RequestError, SandboxError
from openzaya.sandbox.executor import Executor, Request, Result, Status
from openzaya.serve.config import ServeConfig
from openzaya.serve.errors import ApiError
from openzaya.serve.guard import Guard
from openzaya.serve.json_body import read_json
from openzaya.serve.keys import Keys
from openzaya.serve.metrics import CONTENT_TYPE, SECONDS, request_counter
from openzaya.serve.routes import Endpoint, Handler, application
from openzaya.serve.sandbox_schema import RunCode, refusal, to_answer, to_request
from openzaya.serve.schema import reader
from openzaya.serve.stream import json_response, unless_gone

SERVER_HEADER = {"X-Sandbox": "openzaya"}
"""By this a client knows that the fields beyond SandboxFusion's are understood."""


class SandboxMetrics:
    """Counters of a sandbox server; no label holds anything that a client sent."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = request_counter(self._registry)
        self.runs = Counter(
            "openzaya_sandbox_runs",
            "Programs run, by verdict",
            ("verdict",),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "openzaya_sandbox_seconds",
            "From a request to its result",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "openzaya_sandbox_in_flight", "Programs that wait or run", registry=self._registry
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


@dataclass(kw_only=True, slots=True)
class SandboxService:
    """One executor behind one server."""

    config: ServeConfig
    """How it listens; `max_queue` programs may wait."""
    keys: Keys
    """Who may ask."""
    executor: Executor
    """Where programs run."""
    slots: int
    """Programs that run at once."""
    metrics: SandboxMetrics = field(default_factory=SandboxMetrics)
    """What is counted."""
    num_in_flight: int = 0
    """Programs that wait or run."""
    mean_s: float = 1.0
    """How long a run took lately."""
    draining: bool = False
    """Whether the server is about to end."""
    threads: ThreadPoolExecutor = field(init=False)
    """Where the executor is called."""

    def __post_init__(self) -> None:
        """Make the threads."""
        self.threads = ThreadPoolExecutor(self.slots, "openzaya-sandbox")

    async def run(self, request: Request) -> Result:
        """Run a program when its turn comes.

        Raises ApiError 429 when too many wait, 503 when the turn does not come in `queue_s`. If the
        caller is cancelled, a program that still waits is never started, and one that runs ends.
        """
        if self.num_in_flight >= self.slots + self.config.max_queue:
            reason = f"{self.num_in_flight} programs wait or run, the most that this server takes"
            raise self._refused(429, reason, "queue_full")
        request = replace(request, stop=(stop := Event()))
        self.num_in_flight += 1
        self.metrics.in_flight.set(self.num_in_flight)
        try:
            with self.metrics.seconds.time():
                future = self.threads.submit(self._run, request)
                future.add_done_callback(partial(self._note, request))
                return await self._in_time(future)
        finally:
            stop.set()
            self.num_in_flight -= 1
            self.metrics.in_flight.set(self.num_in_flight)

    async def _in_time(self, future: Future[Result]) -> Result:
        """Wait for a run. Raises ApiError 503 when it has not begun within `queue_s`."""
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait([result], timeout=self.config.queue_s)
            if not result.done() and future.cancel():  # which fails once it has begun
                reason = f"no box came free in {self.config.queue_s:g} s"
                raise self._refused(503, reason, "queue_timeout")
            return await result
        finally:
            result.cancel()

    def _refused(self, status: int, reason: str, code: str) -> ApiError:
        wait_s = math.ceil(self.mean_s * self.config.max_queue / self.slots)
        headers = {"Retry-After": str(min(60, max(1, wait_s)))}
        return ApiError(status, f"{reason}; ask again later", code=code, headers=headers)

    def _run(self, request: Request) -> Result:
        """Run a program in a thread; what fails here says nothing about it."""
        try:
            return self.executor.run(request)
        except SandboxError as error:
            return Result(status=Status.INFRA, reason=str(error)[:500])

    def _note(self, request: Request, future: Any) -> None:
        """Count a run that has ended, if it was run at all and is still wanted."""
        if not (request.is_stopped or future.cancelled() or future.exception()):
            result: Result = future.result()
            self.mean_s += 0.1 * (result.wall_s - self.mean_s)
            self.metrics.runs.labels(result.status.value).inc()


class RunAnswer:
    """The answer to a request for a run, which is forgotten when its client leaves."""

    def __init__(self, service: SandboxService, request: Request) -> None:
        self._service = service
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the program and send how it went."""
        told: list[Response] = []

        async def work() -> None:
            try:
                result = await self._service.run(self._request)
            except RequestError as error:
                raise refusal(error) from None
            make = partial(to_answer, result, self._request)
            body = await asyncio.to_thread(make)
            told.append(json_response(body, headers=SERVER_HEADER))

        if await unless_gone(work(), receive):
            await told[0](scope, receive, send)


def create_sandbox_app(service: SandboxService) -> ASGIApp:
    """Return the application; its lifespan ends with the executor's."""

    def route(path: str, method: str, handler: Handler[SandboxService]) -> Route:
        return Route(path, Endpoint(service, handler, method, path))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(service.executor.close)
            service.threads.shutdown(wait=False, cancel_futures=True)

    routes = [
        route("/run_code", "POST", run_code),
        route("/v1/ping", "GET", ping),
        route("/health", "GET", health),
        route("/metrics", "GET", show_metrics),
    ]
    return Guard(application(routes, lifespan), service)


async def run_code(service: SandboxService, request: HttpRequest) -> ASGIApp:
    """Answer POST /run_code."""
    config = service.config
    body = await read_json(request, config.max_body_bytes, config.body_s, reader(RunCode))
    return RunAnswer(service, to_request(body))


async def ping(_service: SandboxService, _request: HttpRequest) -> Response:
    """Answer GET /v1/ping."""
    return json_response("pong", headers=SERVER_HEADER)


async def health(service: SandboxService, _request: HttpRequest) -> Response:
    """Answer GET /health: 200 while programs are taken, else 503."""
    state = "draining" if service.draining else "ok"
    return json_response({"status": state}, 200 if state == "ok" else 503)


async def show_metrics(service: SandboxService, _request: HttpRequest) -> Response:
    """Answer GET /metrics."""
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
