"""SIGTERM while a run is under way: it ends or is kept, and no call of it goes on elsewhere."""

import http.client
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from server_process import python, server_child, server_process

TTC = {"num_candidates": 4, "tails_per_prompt": 2, "rounds": 2, "budget_tokens": 400}
TTC["tail_tokens"] = 20
BODY = {"model": "mock", "messages": [{"role": "user", "content": "How many? [key: 42]"}]}
DRAIN_S = 3.0
"""Runs get this less the two seconds in which what is unfinished is written."""


@pytest.fixture
def slow_mock(tmp_path: Path) -> Iterator[str]:
    """A reply takes two seconds, a run six."""
    words = ["openzaya.backends.mock", "--port", "0", "--length", "fixed:40"]
    words += ["--per-token", "0.05", "--set", "chunk_tokens=1", "--set", "ids=vllm"]
    with server_process(python(*words), tmp_path / "mock.log") as url:
        yield url


@contextmanager
def gateway(mock: str, folder: Path, drain_s: float) -> Iterator[tuple[Any, str]]:
    words = ["openzaya", "serve", "--upstream", mock, "--port", "0"]
    words += ["--set", "log_format=json"]
    words += ["--set", f"journal={folder / 'runs.db'}", "--set", f"drain_s={drain_s}"]
    with server_child(python(*words), folder / "gateway.log") as (child, url):
        yield child, url


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def post(url: str, key: str = "", **fields: Any) -> tuple[int, bytes, Message]:
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    body = json.dumps({**BODY, **fields}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_that_ends_within_the_grace_is_answered_as_if_nothing_were(slow_mock, tmp_path):
    with gateway(slow_mock, tmp_path, 30.0) as (child, url), ThreadPoolExecutor() as threads:
        asked = threads.submit(post, url, stream=True, ttc=TTC)
        wait_for(lambda: get(f"{slow_mock}/stats")["calls"] > 8)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1)
        status, raw, _ = asked.result(60)
        assert child.wait(timeout=10) == 0
    assert status == 200
    assert raw.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"stop"' in raw
    assert get(f"{slow_mock}/stats")["aborted"] == 0


@pytest.mark.slow
def test_a_run_that_takes_longer_is_told_so_kept_and_gone_on_with(slow_mock, tmp_path):
    asks = ({"key": "a", "stream": True}, {"key": "b"}, {"stream": True, "ttc": False})
    with gateway(slow_mock, tmp_path, DRAIN_S) as (child, url), ThreadPoolExecutor() as threads:
        first = get(f"{slow_mock}/stats")["calls"]
        long = {"ttc": TTC, "seed": 5}
        asked = [threads.submit(post, url, **{**long, **ask}) for ask in asks]
        # All of stage 0 is done and stage 1 has begun, in both runs.
        wait_for(lambda: get(f"{slow_mock}/stats")["calls"] >= first + 17)
        child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        (_, streamed, _), (status, told, headers), (_, plain, _) = (a.result(30) for a in asked)
        assert child.wait(timeout=10) == 0
        assert time.monotonic() - began < DRAIN_S + 1.0
    assert b'"code":"draining"' in streamed
    assert b"[DONE]" not in streamed
    assert (status, json.loads(told)["error"]["code"]) == (503, "draining")
    assert headers["X-Run-Id"] in json.loads(told)["error"]["message"]
    assert b"[DONE]" in plain  # it had ended by itself
    stats = get(f"{slow_mock}/stats")
    assert stats["in_flight"] == 0
    assert stats["aborted"] == 8
    logged = [json.loads(line) for line in (tmp_path / "gateway.log").read_text().splitlines()[2:]]
    ended = [line for line in logged if line["message"] == "run ended"]
    assert [line["state"] for line in ended] == ["interrupted", "interrupted"]
    assert "How many?" not in (tmp_path / "gateway.log").read_text()

    with gateway(slow_mock, tmp_path, DRAIN_S) as (_, url):
        before = get(f"{slow_mock}/stats")["finished"]
        listed = get(f"{url}/v1/ttc/runs")["data"]
        assert {run["state"] for run in listed} == {"interrupted"}
        probes = get(f"{slow_mock}/stats")["finished"] - before
        status, raw, _ = post(url, key="b", ttc=TTC, seed=5)
        assert status == 200
        answer = json.loads(raw)
        assert answer["ttc"]["run_id"] == headers["X-Run-Id"]
        assert sum(answer["ttc"]["answers"][-1].values()) == 4
        # Stage 0 is not generated again: only the eight candidates of the stages after it are.
        assert get(f"{slow_mock}/stats")["finished"] - before - probes == 8


@pytest.mark.slow
def test_a_plain_stream_that_takes_longer_is_cut_and_ends_at_the_upstream(tmp_path):
    words = ["openzaya.backends.mock", "--port", "0", "--length", "fixed:2000"]
    words += ["--per-token", "0.05", "--set", "chunk_tokens=1"]
    with server_process(python(*words), tmp_path / "mock.log") as mock:
        with gateway(mock, tmp_path, 1.0) as (child, url), ThreadPoolExecutor() as threads:
            first = get(f"{mock}/stats")["calls"]
            asked = threads.submit(post, url, stream=True)
            wait_for(lambda: get(f"{mock}/stats")["calls"] > first)
            child.send_signal(signal.SIGTERM)
            began = time.monotonic()
            with pytest.raises(http.client.IncompleteRead) as cut:
                asked.result(30)
            assert child.wait(timeout=10) == 0
            assert time.monotonic() - began < 1.0 + 2.0
        assert b"[DONE]" not in cut.value.partial
        assert b"data: {" in cut.value.partial
        stats = get(f"{mock}/stats")
        assert (stats["in_flight"], stats["aborted"]) == (0, 1)
