"""What waits too long for a slot of our own engine is told when to come back."""

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import sha256

import pytest
from running_server import ask, listening
from serve.conftest import ENDLESS, QUESTION, Running, serving, wait_for

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.pool import Upstreams
from openzaya.cli import serve as verb
from openzaya.core.errors import ConfigError
from openzaya.core.records import Message, SampleRequest
from openzaya.serve.config import ServeConfig
from openzaya.serve.gateway.assembly import engine_gateway
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.keys import RIGHTS, UNLIMITED, Allowance, Key, Keys
from openzaya.ttc.journal import Journal

CHAT = "/v1/chat/completions"
PLAIN = {"model": "nano", "messages": QUESTION}
QUEUE_S = 0.8


def begin(port: int, **fields) -> socket.socket:
    """Send a chat that generates until its client leaves, and return its connection."""
    body = json.dumps({**PLAIN, "logit_bias": ENDLESS, **fields}).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    return sock


@contextmanager
def full(queue_s: float = QUEUE_S, slots: int = 1) -> Iterator[tuple[Running, socket.socket]]:
    """Run a server all of whose slots are taken; give it and the connection that takes them."""
    with serving(GatewayConfig(queue_s=queue_s), slots=slots) as small:
        # A nano model at full speed would reach the end of its context meanwhile.
        slow_down(small)
        with closing(begin(small.port, n=slots, stream=True)) as holder:
            wait_for(lambda: small.engine.num_running == slots)
            yield small, holder


def slow_down(server: Running, pause_s: float = 0.01) -> None:
    step = server.engine.step

    def slow_step():
        time.sleep(pause_s)
        return step()

    server.engine.step = slow_step


def test_what_gets_no_slot_in_time_is_refused_and_leaves_nothing_behind():
    with full() as (small, holder):
        chat, text = PLAIN, {"model": "nano", "prompt": ["a", "b"]}
        for path, body in ((CHAT, chat), (CHAT, {**chat, "n": 3}), ("/v1/completions", text)):
            for stream in (False, True):
                began = time.perf_counter()
                status, told, headers = small.ask(path, {**body, "stream": stream})
                took = time.perf_counter() - began
                assert (status, told["error"]["code"]) == (503, "queue_timeout"), told
                assert QUEUE_S <= took < QUEUE_S + 2
                assert 1 <= int(headers["retry-after"]) <= 60
                assert small.service.driver.num_in_flight == 1
        assert small.service.metrics.disconnects._value.get() == 0
        wait_for(lambda: not small.engine._arrived and not small.engine._aborted)
        assert len(small.engine._scheduler.queue) == 0
        holder.close()
        small.settle()
        assert small.ask(CHAT, {**PLAIN, "max_tokens": 2})[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_only_the_first_choice_is_waited_for_and_what_has_begun_goes_on(stream):
    """Three choices in one slot: each takes longer than the wait for the first one may."""
    with serving(GatewayConfig(queue_s=QUEUE_S), slots=1) as small:
        slow_down(small)
        tokens = 100
        fields = {"n": 3, "max_tokens": tokens, "logit_bias": ENDLESS}
        began = time.perf_counter()
        if stream:
            ends = [c["choices"][0]["finish_reason"] for c in small.chunks(**fields)]
            assert ends.count("length") == 3
        else:
            assert small.chat(**fields)["usage"]["completion_tokens"] == 3 * tokens
        assert time.perf_counter() - began > 3 * QUEUE_S
        small.settle()


def test_a_stream_begins_with_its_slot():
    with full(queue_s=20.0) as (small, holder):
        with closing(begin(small.port, stream=True, max_tokens=1)) as waiting:
            waiting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            holder.close()
            waiting.settimeout(10)
            answer = b""
            while data := waiting.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"[DONE]" in answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_frees_its_place(stream):
    with full(queue_s=20.0) as (small, _):
        waiting = begin(small.port, n=2, stream=stream)
        wait_for(lambda: small.service.driver.num_in_flight == 3)
        waiting.close()
        wait_for(lambda: small.service.driver.num_in_flight == 1)
        assert small.service.metrics.disconnects._value.get() == 1


def test_a_stream_that_the_engine_refuses_is_an_error_and_no_stream(monkeypatch):
    """What the route did not see and the engine does is a 400, not the end of a stream."""
    with serving(slots=1) as small:
        monkeypatch.setattr("openzaya.serve.service.Service.room", lambda *_: 4000)
        body = {**PLAIN, "messages": [{"role": "user", "content": "a" * 4000}], "stream": True}
        assert small.ask(CHAT, body)[0] == 400


def test_the_wait_must_be_a_time():
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="queue_s"):
            ServeConfig(queue_s=wrong)


def test_a_gateway_asks_a_full_server_for_less_and_comes_back(tmp_path):
    """The refusals count as overload: the limit is halved once, the circuit stays closed."""
    ask_one = SampleRequest(messages=(Message("user", "sort qdkax"),), max_tokens=4, seed=3)

    async def main(url: str, holder: socket.socket) -> tuple[int, dict]:
        config = HttpConfig(url=url, max_in_flight=4, retry_base_s=0.01, probe=False)
        async with Upstreams([config]) as pool:
            calls = [asyncio.create_task(pool.sampler().sample(ask_one)) for _ in range(4)]
            upstream = pool.upstreams[0]
            while upstream.failures["http_503"] < 4:
                await asyncio.sleep(0.01)
            lowest = int(upstream.limit.value)
            assert upstream.breaker.is_closed
            assert upstream.limit.is_paused
            holder.close()
            for done in await asyncio.gather(*calls):
                assert done.num_tokens > 0
            return lowest, upstream.status()

    with full(slots=2) as (small, holder):
        small.service.driver._mean_s = 0.1
        lowest, told = asyncio.run(asyncio.wait_for(main(small.url, holder), 30))
    assert (lowest, told["ok"], told["state"]) == (2, 4, "up")
    assert set(told["failures"]) == {"http_503"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_whose_calls_get_no_slot_is_refused_and_a_run_that_has_begun_is_not(tmp_path, stream):
    config = GatewayConfig(port=0, model_name="nano", queue_s=QUEUE_S)
    args = argparse.Namespace(model="nano", max_slots=1, context=1024)
    service = verb.load_service(args, config, Keys(), threads=1)
    kept = Journal.open(str(tmp_path / "j.sqlite"))
    app, gateway = engine_gateway(service, config, kept, max_slots=1)
    ttc = {"num_candidates": 3, "rounds": 0, "budget_tokens": 60, "tail_tokens": 8}
    run = {**PLAIN, "ttc": ttc, "stream": stream, "logit_bias": ENDLESS}
    with listening(app, config) as port:
        slow_down(Running(port, service, gateway))
        with closing(begin(port, stream=True)) as holder:
            wait_for(lambda: service.driver.num_running == 1)
            status, told, _ = ask(port, CHAT, run)
            assert b"queue_timeout" in told if stream else told["error"]["code"] == "queue_timeout"
            assert status == (200 if stream else 503)
            holder.close()
        wait_for(lambda: service.driver.num_in_flight == 0)
        status, told, _ = ask(port, CHAT, run)
        assert status == 200
        assert b"[DONE]" in told if stream else told["ttc"]["calls"] == 3


def test_a_key_of_three_times_the_weight_is_served_three_times_as_often(monkeypatch):
    names = {sha256(name.encode()).digest(): name for name in ("heavy", "light", "holder")}
    weights = {"heavy": Allowance(weight=3.0)}
    keys = [Key(d, RIGHTS, name, weights.get(name, UNLIMITED)) for d, name in names.items()]
    served = []
    with serving(keys=Keys(tuple(keys)), slots=1) as small:
        driver, queue = small.service.driver, small.engine._scheduler.queue
        pop = queue.pop

        def noted(cost_tokens):
            request = pop(cost_tokens)
            served.append(names[bytes.fromhex(request.tenant)])
            return request

        monkeypatch.setattr(queue, "pop", noted)
        slow_down(small, 0.002)

        def post(name: str, **fields):
            told = {"Authorization": f"Bearer {name}"}
            body = {**PLAIN, "logit_bias": ENDLESS, **fields}
            return small.ask(CHAT, body, headers=told)[0]

        with ThreadPoolExecutor(17) as threads:
            asked = [threads.submit(post, "holder", max_tokens=300)]
            wait_for(lambda: small.engine.num_running == 1)
            for name in ("light", "heavy"):
                asked += [threads.submit(post, name, max_tokens=20) for _ in range(8)]
            wait_for(lambda: driver.num_in_flight == 17)
            assert {call.result() for call in asked} == {200}
    assert served[0] == "holder"
    assert sorted(served[1:]) == ["heavy"] * 8 + ["light"] * 8
    assert served[1:9].count("heavy") in (5, 6)
