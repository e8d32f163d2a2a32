"""A real server of the bundled nano model on a loopback port, in a thread of the test process."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from running_server import ask, listening

from openzaya.cli import serve as verb
from openzaya.engine.request import SamplingParams
from openzaya.serve.gateway.assembly import engine_gateway
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.service import Gateway
from openzaya.serve.jobs import TokenEngine
from openzaya.serve.keys import Keys
from openzaya.serve.service import Service
from openzaya.ttc.journal import Journal

QUESTION = [{"role": "user", "content": "sort qdkax"}]
ENDLESS = {"2": -100.0, "264": -100.0}
"""Biases that keep the nano model from ending its turn."""


@dataclass
class Running:
    """A server that runs."""

    port: int
    service: Service
    gateway: Gateway

    @property
    def engine(self) -> TokenEngine:
        return self.service.driver._engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, parsed body and headers; bytes are sent as they are."""
        return ask(self.port, path, body, headers, method)

    def chat(self, **fields: Any) -> dict[str, Any]:
        """Return the answer of a chat that must succeed."""
        status, answer, _ = self.ask(
            "/v1/chat/completions", {"model": "nano", "messages": QUESTION, **fields}
        )
        assert status == 200, answer
        return answer

    def chunks(self, path: str = "/v1/chat/completions", **fields: Any) -> list[dict[str, Any]]:
        """Return the events of a stream that must end well."""
        body = {"model": "nano", "stream": True, **fields}
        if "prompt" not in fields:
            body = {"messages": QUESTION, **body}
        status, raw, headers = self.ask(path, body)
        assert status == 200, raw
        assert headers["content-type"].startswith("text/event-stream")
        events = [line for line in raw.decode().split("\n\n") if line.startswith("data: ")]
        assert events[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in events[:-1]]

    def settle(self, limit_s: float = 5.0) -> float:
        """Wait until nothing runs and nothing is kept; return how long that took."""
        began = time.perf_counter()
        driver = self.service.driver
        while driver.num_in_flight or self.engine.num_running or self.engine.has_work:
            assert time.perf_counter() - began < limit_s, "something still runs"
            time.sleep(0.002)
        took = time.perf_counter() - began
        assert driver._jobs == set()
        assert self.engine._listeners._requests == {}
        assert self.engine._steering.is_idle
        return took


def wait_for(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait until a condition holds."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < limit_s
        time.sleep(0.002)


@contextmanager
def serving(
    config: GatewayConfig | None = None,
    keys: Keys | None = None,
    *,
    slots: int = 8,
    context: int = 1024,
) -> Iterator[Running]:
    """Run a server while the block runs."""
    config = replace(config or GatewayConfig(), port=0, model_name="nano")
    args = argparse.Namespace(model="nano", max_slots=slots, context=context)
    service = verb.load_service(args, config, keys or Keys(), threads=1)
    with TemporaryDirectory() as folder:
        journal = Journal.open(f"{folder}/runs.sqlite")
        app, gateway = engine_gateway(service, config, journal, max_slots=slots)
        with listening(app, config) as port:
            yield Running(port, service, gateway)


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, server: Running) -> Script:
    """Give a function that makes the model write a text, token by token, whatever it would say.

    The engine forces the text as it forces the end of a thought; then the model goes on, or ends
    its turn.
    """
    original = Service._params

    def write(text: str, *, end: bool = True, first: bool = True) -> None:
        tokenizer = server.service.codec.tokenizer
        ids = tuple(tokenizer.encode(text)) + ((tokenizer.eos_id,) if end else ())

        def params(self: Service, *args: Any) -> SamplingParams:
            plain = original(self, *args)
            return replace(plain, think_budget=0, think_end_ids=ids, think_close_ids=())

        monkeypatch.setattr(Service, "_params", params)

    return write
