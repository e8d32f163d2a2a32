"""What a key pays for: what was generated for it, whatever became of the answer."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from serve.conftest import ENDLESS, serving
from serve.gateway.conftest import CHAT, QUESTION, gatewaying, upstream, wait_for

from openzaya.backends.mock import MockConfig
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.limits import Purses
from openzaya.serve.keys import Keys, read_key

DAY = 10**9
KEYS = Keys(
    (read_key(f"{hashlib.sha256(b'k').hexdigest()} infer output_tokens_per_day={DAY}", "t"),)
)
ASKED = {"messages": QUESTION}
BEARER = {"Authorization": "Bearer k"}
TTC = {"num_candidates": 4, "rounds": 1, "budget_tokens": 96, "tail_tokens": 8, "consensus": None}
LONG = {**TTC, "rounds": 0, "budget_tokens": 900}


def spent(running: Any) -> float:
    """Return what the key has paid, in tokens."""
    bucket = running.gateway.purses.of(KEYS.known[0])._buckets["output_tokens_per_day"]
    return DAY - bucket.level(0.0)


def means(running: Any) -> set[str]:
    """Return by what means it is known."""
    samples = running.gateway.metrics.charged.collect()[0].samples
    return {s.labels["means"] for s in samples if s.name.endswith("_total") and s.value}


def send(running: Any, path: str, body: dict[str, Any], more: str = "") -> socket.socket:
    """Send a request and return its connection."""
    raw = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer k\r\nContent-Length: {len(raw)}\r\n{more}\r\n"
    )
    sock.sendall(head.encode() + raw)
    return sock


@dataclass(frozen=True)
class Case:
    """One request before a mock upstream."""

    means: set[str]
    fields: dict[str, Any] = field(default_factory=dict)
    mock: dict[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    path: str = CHAT
    leaves: bool = False
    off: float = 0.0
    """How much an estimate may be off."""


STREAM = {"stream": True}
USAGE = {**STREAM, "stream_options": {"include_usage": True}}
IDS = {**STREAM, "return_token_ids": True}
SLOW = {"token_s": 0.004, "length": "fixed:4000", "chunk_tokens": 4}
NO_TOKENIZER = {"can_tokenize": False}
COUNTED, GUESSED = 0.02, 0.3
CASES = {
    "whole": Case({"usage"}),
    "whole, n = 3": Case({"usage"}, {"n": 3}),
    "whole without usage": Case({"tokenizer"}, faults=("no_usage",), off=COUNTED),
    "whole without usage or tokenizer": Case(
        {"ratio"}, mock=NO_TOKENIZER, faults=("no_usage",), off=GUESSED
    ),
    "whole, its usage cannot be": Case(
        {"tokenizer"}, {"max_tokens": 200}, faults=("wrong_count",), off=COUNTED
    ),
    "stream with usage": Case({"usage"}, USAGE),
    "stream with ids": Case({"ids"}, IDS, {"ids": "vllm"}),
    "stream with ids, n = 2, cut": Case({"ids"}, {**IDS, "n": 2}, {"ids": "vllm"}, ("cut",)),
    "stream": Case({"tokenizer"}, STREAM, off=COUNTED),
    "stream, n = 2": Case({"tokenizer"}, {**STREAM, "n": 2}, off=COUNTED),
    "stream without tokenizer": Case({"ratio"}, STREAM, NO_TOKENIZER, off=GUESSED),
    "stream of completions": Case(
        {"tokenizer"}, {"prompt": ["a", "b"], **STREAM}, path="/v1/completions", off=COUNTED
    ),
    "stream of odd form": Case({"tokenizer"}, STREAM, faults=("crlf",), off=COUNTED),
    "stream that is cut": Case({"tokenizer"}, STREAM, faults=("cut",), off=COUNTED),
    "stream that is no JSON": Case({"tokenizer"}, STREAM, faults=("half_json",), off=COUNTED),
    "stream that is left": Case({"tokenizer"}, STREAM, SLOW, leaves=True, off=0.5),
    "refused by the upstream": Case(set(), {"max_tokens": 1 << 20}),
    "upstream that fails": Case(set(), faults=("500",)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_key_pays_for_what_an_upstream_generated(tmp_path, name):
    case = CASES[name]
    config = MockConfig(**{"ttft_s": 0.001, "length": "fixed:192", **case.mock})
    with upstream(config) as mock, gatewaying(mock, tmp_path / "j", KEYS) as gateway:
        gateway.gateway.purses = Purses(lambda: 0.0)  # a clock that stands: nothing refills
        body = {"model": "mock", **({} if "prompt" in case.fields else ASKED), **case.fields}
        mock.set_faults(list(case.faults))
        wait_for(lambda: not mock.records.in_flight)  # of the probes
        before = mock.records.completion_tokens
        if case.leaves:
            sock = send(gateway, case.path, body)
            wait_for(lambda: b"content" in sock.recv(1 << 16))
            sock.close()
        else:
            with suppress(http.client.IncompleteRead):
                gateway.ask(case.path, body, headers=BEARER)
        wait_for(lambda: not mock.records.in_flight)
        made = mock.records.completion_tokens - before
        assert made or not case.means
        wait_for(lambda: abs(spent(gateway) - made) <= case.off * made)
        assert means(gateway) == case.means


def test_a_whole_answer_that_nobody_waits_for_is_paid_by_the_pace_of_those_before(tmp_path):
    config = MockConfig(ttft_s=0.001, token_s=0.001, length="fixed:4000", can_tokenize=False)
    with upstream(config) as mock, gatewaying(mock, tmp_path / "j", KEYS) as gateway:
        gateway.gateway.purses = Purses(lambda: 0.0)
        body = {"model": "mock", **ASKED}
        gateway.ask(CHAT, {**body, "max_tokens": 50}, headers=BEARER)
        wait_for(lambda: spent(gateway) == 50)
        pace = 50 / 0.051  # at most
        began = time.monotonic()
        sock = send(gateway, CHAT, {**body, "n": 2, "max_tokens": 4000})
        wait_for(lambda: mock.records.in_flight == 1)
        time.sleep(0.2)
        sock.close()
        wait_for(lambda: "time" in means(gateway))
        assert 50 < spent(gateway) - 50 <= 2 * pace * (time.monotonic() - began)


def test_a_run_costs_what_its_usage_says_and_one_that_is_left_what_its_calls_wrote(tmp_path):
    config = MockConfig(ttft_s=0.001, token_s=0.001, length="fixed:96", chunk_tokens=1, ids="vllm")
    with upstream(config) as mock, gatewaying(mock, tmp_path / "j", KEYS) as gateway:
        gateway.gateway.purses = Purses(lambda: 0.0)
        body = {"model": "mock", **ASKED, "ttc": TTC, "seed": 1}
        whole = gateway.ask(CHAT, body, headers=BEARER)[1]["usage"]["completion_tokens"]
        wait_for(lambda: spent(gateway) == whole)
        before = mock.records.completion_tokens
        key = {"Idempotency-Key": "again"}
        sock = send(gateway, CHAT, body, "Idempotency-Key: again\r\n")
        wait_for(lambda: mock.records.completion_tokens > before)  # a call of stage 0 has ended
        sock.close()
        wait_for(lambda: not gateway.gateway.runs._live and not mock.records.in_flight)
        made = mock.records.completion_tokens - before
        left = spent(gateway) - whole
        assert 0.5 * made <= left <= made
        # What goes on from the journal pays for the rest, not twice for what was done.
        told = gateway.ask(CHAT, body, headers={**BEARER, **key})[1]["usage"]["completion_tokens"]
        done = mock.records.completion_tokens - before - made
        wait_for(lambda: spent(gateway) - whole - left == done)
        assert told >= done
        assert means(gateway) == {"run"}


def test_a_try_that_an_upstream_lost_is_told_and_costs_nothing(tmp_path):
    config = MockConfig(ttft_s=0.001, length="fixed:96", chunk_tokens=1, ids="vllm")
    with upstream(config) as mock, gatewaying(mock, tmp_path / "j", KEYS) as gateway:
        gateway.gateway.purses = Purses(lambda: 0.0)
        before, calls = mock.records.completion_tokens, mock.records.calls
        mock.set_faults([f"cut@{calls + 2}-{calls + 3}"])
        answer = gateway.ask(CHAT, {"model": "mock", **ASKED, "ttc": TTC}, headers=BEARER)[1]
        told = answer["usage"]["completion_tokens"]
        assert 0 < answer["ttc"]["usage"]["lost"] <= mock.records.completion_tokens - before - told
        wait_for(lambda: spent(gateway) == told)


def test_a_run_that_fails_costs_what_was_generated_before(tmp_path):
    config = MockConfig(ttft_s=0.001, length="fixed:96", ids="vllm")
    with upstream(config) as mock, gatewaying(mock, tmp_path / "j", KEYS) as gateway:
        gateway.gateway.purses = Purses(lambda: 0.0)
        before = mock.records.calls
        mock.set_faults([f"500@{before + 3}-"])
        body = {"model": "mock", **ASKED, "ttc": {**TTC, "tails_per_prompt": 4}}
        status, _, _ = gateway.ask(CHAT, body, headers=BEARER)
        assert status in (200, 502)
        wait_for(lambda: spent(gateway) == 2 * 96)


ENGINE_CASES = {
    "whole": ({}, False),
    "whole that is left": ({}, True),
    "stream": ({"stream": True}, False),
    "stream that is left": ({"stream": True}, True),
    "n = 3": ({"n": 3}, False),
    "n = 3 that is left": ({"n": 3}, True),
    "stream, n = 3, stopped by a string": ({"n": 3, "stream": True, "stop": "a"}, False),
    "completions": ({"prompt": ["a", "b"], "stream": True}, False),
    "completions that are left": ({"prompt": ["a", "b"]}, True),
    "a run": ({"ttc": {**TTC, "budget_tokens": 32}}, False),
    "a run that is left": ({"ttc": LONG}, True),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with serving(GatewayConfig(), KEYS) as running:
        yield running


@pytest.mark.parametrize("name", ENGINE_CASES)
def test_a_key_pays_for_what_our_engine_generated(engine, name):
    fields, leaves = ENGINE_CASES[name]
    engine.gateway.purses = Purses(lambda: 0.0)
    path = "/v1/completions" if "prompt" in fields else CHAT
    body = {"model": "nano", **({} if "prompt" in fields else ASKED), **fields}
    if leaves:
        body |= {"logit_bias": ENDLESS}
    if "ttc" not in fields:
        body["max_tokens"] = 900 if leaves else 24
    before = sampled(engine)
    if leaves:
        sock = send(engine, path, body)
        wait_for(lambda: sampled(engine) - before >= 100)
        sock.close()
        engine.settle()
        # The step under way when the client left goes to nobody.
        places = 2 * fields.get("n", 4)
        made = sampled(engine) - before
        wait_for(lambda: made - places <= spent(engine) <= made)
    else:
        told = engine.ask(path, body, headers=BEARER)[1]
        wait_for(lambda: 0 < spent(engine) <= sampled(engine) - before)
        if isinstance(told, dict):
            assert spent(engine) == told["usage"]["completion_tokens"]


def sampled(running: Any) -> int:
    """Return the tokens that the engine has sampled."""
    return int(running.engine.stats.tokens_generated)


def test_an_engine_that_fails_is_paid_for_what_it_generated(monkeypatch):
    with serving(GatewayConfig(), KEYS) as running:
        running.gateway.purses = Purses(lambda: 0.0)
        step, steps = running.engine.step, []

        def failing() -> Any:
            steps.append(0)
            if len(steps) > 20:
                raise MemoryError("for the test")
            return step()

        monkeypatch.setattr(running.engine, "step", failing)
        body = {"model": "nano", **ASKED, "logit_bias": ENDLESS, "max_tokens": 500}
        assert running.ask(CHAT, body, headers=BEARER)[0] == 500
        assert spent(running) == sampled(running) > 10
