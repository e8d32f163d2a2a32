"""A gateway on a loopback port before a mock upstream, each in a thread of the test process."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from running_server import ask, listening

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.mock import MockConfig, MockUpstream
from openzaya.backends.pool import PoolConfig, Upstreams
from openzaya.serve.gateway.assembly import upstream_gateway
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.service import Gateway
from openzaya.serve.keys import Keys
from openzaya.ttc.journal import Journal

QUESTION = [{"role": "user", "content": "What is 6 times 7?"}]
SMALL = {"num_candidates": 4, "rounds": 1, "budget_tokens": 4096, "tail_tokens": 64}
CHAT = "/v1/chat/completions"


@contextmanager
def upstream(config: MockConfig) -> Iterator[MockUpstream]:
    """Run a mock upstream while the block runs."""
    ready, ending = Event(), Event()
    found: list[MockUpstream] = []

    async def serve() -> None:
        async with MockUpstream(config) as mock:
            found.append(mock)
            ready.set()
            while not ending.is_set():
                await asyncio.sleep(0.01)

    thread = Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        ending.set()
        thread.join(30)


@dataclass
class Running:
    """A gateway that runs, and the upstream behind it."""

    port: int
    gateway: Gateway
    mock: MockUpstream

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any, dict[str, str]]:
        return ask(self.port, path, body, **more)

    def run(self, **fields: Any) -> dict[str, Any]:
        """Return the answer of a run that must succeed."""
        headers = fields.pop("headers", None)
        body = {"model": "mock", "messages": QUESTION, "ttc": SMALL, **fields}
        status, answer, _ = self.ask(CHAT, body, headers=headers)
        assert status == 200, answer
        return answer

    def stream(self, **fields: Any) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the chunks and the comments of a stream that must end well."""
        body = {"model": "mock", "messages": QUESTION, "ttc": SMALL, "stream": True, **fields}
        status, raw, headers = self.ask(CHAT, body)
        assert status == 200, raw
        assert headers["content-type"].startswith("text/event-stream")
        blocks = raw.decode().split("\n\n")
        told = [b.removeprefix("data: ") for b in blocks if b.startswith("data: ")]
        assert told[-1] == "[DONE]", told[-1]
        return [json.loads(t) for t in told[:-1]], [b for b in blocks if b.startswith(":")]

    def begin(self, headers: str = "", **fields: Any) -> socket.socket:
        """Send a run and return its connection."""
        body = {"model": "mock", "messages": QUESTION, "ttc": SMALL, **fields}
        raw = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\n{headers}\r\n"
        )
        sock.sendall(head.encode() + raw)
        return sock


@contextmanager
def gatewaying(
    mock: MockUpstream,
    journal: Path,
    keys: Keys | None = None,
    *,
    places: int = 64,
    patience_s: float = 30.0,
    **settings: Any,
) -> Iterator[Running]:
    """Run a gateway before a mock with so many places while the block runs."""
    config = GatewayConfig(port=0, **settings)
    server = HttpConfig(url=mock.url, retry_base_s=0.01, max_in_flight=places)
    pool = Upstreams([server], PoolConfig(queue_s=config.queue_s, patience_s=patience_s))
    kept = Journal.open(str(journal))
    app, gateway = upstream_gateway(pool, pool, config, keys or Keys(), kept)
    with listening(app, config) as port:
        yield Running(port, gateway, mock)


@pytest.fixture(scope="session")
def mock() -> Iterator[MockUpstream]:
    # Tests look behind the number of requests before them, so none may be forgotten.
    config = MockConfig(ttft_s=0.001, length="fixed:48", kept_requests=1 << 20)
    with upstream(config) as running:
        yield running


@pytest.fixture(scope="session")
def served(mock: MockUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The gateway that most tests share; its upstream answers at once."""
    with gatewaying(mock, tmp_path_factory.mktemp("journal") / "runs.sqlite") as running:
        yield running


@pytest.fixture(scope="session")
def slow_mock() -> Iterator[MockUpstream]:
    """An upstream whose replies take seconds."""
    config = MockConfig(ttft_s=0.01, token_s=0.05, chunk_tokens=1, length="fixed:2000")
    with upstream(config) as running:
        yield running


@pytest.fixture(scope="session")
def slow(slow_mock: MockUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway whose runs last until they are ended."""
    path = tmp_path_factory.mktemp("journal") / "slow.sqlite"
    with gatewaying(slow_mock, path, heartbeat_s=0.2) as running:
        yield running


def wait_for(condition: Callable[[], bool], limit_s: float = 10.0) -> float:
    """Wait until a condition holds; return how long that took."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < limit_s
        time.sleep(0.001)
    return time.perf_counter() - began
