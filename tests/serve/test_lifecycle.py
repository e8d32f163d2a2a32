"""Connections that misbehave, keys, full queues, and the end of the server."""

import argparse
import asyncio
import gc
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.conftest import ENDLESS, QUESTION, serving, wait_for
from starlette.applications import Starlette
from starlette.requests import Request

from openzaya.cli import serve as verb
from openzaya.core.errors import ConfigError, EngineError
from openzaya.serve.config import ServeConfig, check_binding
from openzaya.serve.errors import ApiError
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.guard import Guard
from openzaya.serve.jobs import Job
from openzaya.serve.keys import Key, Keys, load_keys
from openzaya.serve.wire import Server, listen

ROOT = Path(__file__).parents[2]
LONG = {"model": "nano", "messages": QUESTION, "logit_bias": ENDLESS}
ABORT_S = 0.2


def raw(port: int, *parts: bytes, wait_s: float = 5.0) -> bytes:
    """Send bytes as they are and return everything that comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as sock:
        for part in parts:
            sock.sendall(part)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


def post(body: bytes, headers: str = "") -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\n{headers}\r\n"
    ).encode() + body


def begin(port: int, **fields) -> socket.socket:
    """Send a chat and return its connection."""
    body = json.dumps({**LONG, **fields}).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(post(body, f"Content-Length: {len(body)}\r\n"))
    return sock


@pytest.mark.parametrize("fields", [{"stream": True}, {}, {"n": 8}, {"n": 8, "stream": True}])
def test_a_client_that_leaves_frees_the_engine_at_once(server, fields):
    server.settle()
    took = []
    for _ in range(3):
        sock = begin(server.port, **fields)
        wait_for(lambda: server.engine.num_running == fields.get("n", 1))
        sock.close()
        took.append(server.settle())
    assert min(took) < ABORT_S, took
    before = server.service.metrics.disconnects._value.get()
    assert before >= 3


def test_a_client_that_leaves_the_queue_or_the_prefill_frees_its_place(server):
    server.settle()
    crowd = [begin(server.port, n=8, stream=True)]
    wait_for(lambda: server.engine.num_running == 8)
    crowd += [begin(server.port, n=2, priority=5) for _ in range(3)]
    wait_for(lambda: server.service.driver.num_in_flight == 14)
    for sock in crowd[1:]:
        sock.close()
    wait_for(lambda: server.service.driver.num_in_flight == 8)
    crowd[0].close()
    server.settle()


def test_nothing_is_kept_of_requests_that_ended(server):
    for _ in range(3):
        server.chat(n=4, max_tokens=4)
        begin(server.port, stream=True).close()
    server.settle()

    def is_forgotten() -> bool:
        # The task that answered may still have to end after the engine was told.
        gc.collect()
        return not any(type(found) is Job for found in gc.get_objects())

    wait_for(is_forgotten)


def test_a_full_queue_says_when_to_come_back(server):
    with serving(GatewayConfig(max_queue=16), slots=1) as small:
        first = begin(small.port, n=16, stream=True)
        wait_for(lambda: small.service.driver.num_in_flight == 16)
        status, body, headers = small.ask("/v1/chat/completions", {**LONG, "n": 2})
        assert (status, body["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(headers["retry-after"]) <= 60
        first.close()
        small.settle()
        assert small.ask("/v1/chat/completions", {**LONG, "max_tokens": 1})[0] == 200
        small.gateway.runs.draining = True
        small.gateway.backend.drain()
        status, body, headers = small.ask("/v1/chat/completions", LONG)
        assert (status, body["error"]["code"]) == (503, "draining")
        status, told, _ = small.ask("/health")
        assert (status, told["status"]) == (503, "draining")


def test_a_stream_without_news_sends_comments(monkeypatch):
    with serving(GatewayConfig(heartbeat_s=0.05), slots=1) as small:
        step = small.engine.step
        monkeypatch.setattr(small.engine, "step", lambda: time.sleep(0.2) or step())
        waiting = begin(small.port, stream=True, max_tokens=4)
        answer = b""
        while b"[DONE]" not in answer:
            answer += waiting.recv(4096)
        waiting.close()
        assert answer.count(b": still here\n\n") >= 2


def test_a_reader_that_falls_behind_is_dropped(server, monkeypatch):
    """The stream's events are bounded: a client that takes none loses its request."""
    with serving(GatewayConfig(max_unread_events=50), slots=2) as small:
        driver = small.service.driver
        jobs = []
        submit = driver.submit
        monkeypatch.setattr(driver, "submit", lambda *a: jobs.append(submit(*a)) or jobs[-1])
        monkeypatch.setattr("openzaya.serve.jobs.Job.events", _never)
        sock = begin(small.port, stream=True)
        wait_for(lambda: jobs and jobs[0].failure is not None)
        assert jobs[0].failure.code == "slow_reader"
        assert len(jobs[0].unread) <= 50
        small.settle()
        sock.close()


async def _never(self, patience_s):
    import asyncio

    await asyncio.sleep(patience_s)
    return []


@pytest.mark.parametrize(
    ("kind", "message", "logged"),
    [
        (RuntimeError, "the secret prompt", "stopped: RuntimeError at"),
        (EngineError, "the weights are broken", "stopped: the weights are broken at"),
    ],
)
def test_a_failing_engine_fails_its_requests_and_nothing_hangs(
    kind, message, logged, server, monkeypatch, caplog
):
    with serving(slots=2) as small:
        sock = begin(small.port, stream=True)
        wait_for(lambda: small.engine.num_running == 1)

        def broken():
            raise kind(message)

        monkeypatch.setattr(small.engine, "step", broken)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        sock.close()
        assert b"engine_failed" in answer
        assert b"[DONE]" not in answer
        assert b"secret" not in answer
        assert small.ask("/v1/chat/completions", LONG)[0] == 503
        assert small.ask("/health")[0] == 503
    assert "secret" not in caplog.text
    assert logged in caplog.text


def test_a_route_that_breaks_is_a_500_without_words(server, monkeypatch, caplog):
    prompt = " ".join(["the", "secret", "prompt"])

    def broken(*_):
        raise ValueError(prompt)

    monkeypatch.setattr("openzaya.serve.service.Service.asks", broken)
    status, body, _ = server.ask("/v1/chat/completions", LONG)
    assert (status, body["error"]["type"]) == (500, "server_error")
    wait_for(lambda: "ValueError" in caplog.text)
    assert "secret" not in json.dumps(body) + caplog.text


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(b"{}"), 411),
        (post(b"{}", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), 400),
        (post(b"{}", "Content-Length: 2\r\nContent-Length: 3\r\n"), 400),
        (post(b"{}", "Content-Length: -2\r\n"), 400),
        (post(b"{}", "Content-Length: 99999999999\r\n"), 413),
        (post(b"zz\r\n", "Transfer-Encoding: chunked\r\n"), 400),
        (post(b"", "Content-Length: 0\r\nAuthorization: a\r\nAuthorization: b\r\n"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * 30_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 30_000, 431),
    ],
)
def test_http_that_is_refused(server, request_bytes, status):
    answer = raw(server.port, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


def test_chunked_bodies_and_http_1_0_are_fine(server):
    body = json.dumps({**LONG, "max_tokens": 1}).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = raw(server.port, post(chunked, "Transfer-Encoding: chunked\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    answer = raw(server.port, b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    expect = post(body, f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n")
    assert b"100 Continue" in raw(server.port, expect)


def test_a_chunked_body_above_the_limit_is_cut():
    with serving(GatewayConfig(max_body_bytes=1000)) as small:
        piece = b"190\r\n" + b" " * 400 + b"\r\n"
        answer = raw(small.port, post(piece * 4, "Transfer-Encoding: chunked\r\n"))
        assert answer.startswith(b"HTTP/1.1 413 ")


def drip(sock: socket.socket) -> None:
    """Send byte after byte until the server has had enough."""
    try:
        while True:
            sock.sendall(b"X")
            time.sleep(0.05)
    except OSError:
        return


def test_requests_that_drip_are_cut():
    with serving(GatewayConfig(header_s=0.4, body_s=0.4)) as small:
        assert raw(small.port).startswith(b"HTTP/1.1 408 ")
        for start in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"):
            with socket.create_connection(("127.0.0.1", small.port), timeout=5) as sock:
                began = time.perf_counter()
                sock.sendall(start)
                drip(sock)
                assert 0.3 < time.perf_counter() - began < 3
        late = raw(small.port, post(b'{"model', "Content-Length: 100\r\n"))
        assert late.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in late
        assert small.ask("/health")[0] == 200
        # An answer may take longer than a request: 16 long ones in 8 slots take a second or two.
        with begin(small.port, stream=True, n=16):
            time.sleep(0.6)
            assert small.engine.num_running > 0


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys_file(path: Path, *lines: str, mode: int = 0o600) -> Path:
    file = path / "keys"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(mode)
    return file


def test_what_one_key_computed_is_reused_for_that_key_alone(tmp_path):
    file = keys_file(tmp_path, sha("alpha"), sha("beta"))
    body = {"model": "nano", "prompt": [5 + i % 50 for i in range(200)], "max_tokens": 2}
    with serving(keys=load_keys(file)) as server:
        stats = server.engine.stats

        def computed(key: str) -> int:
            before = stats.tokens_prefilled
            header = {"Authorization": f"Bearer {key}"}
            assert server.ask("/v1/completions", body, header)[0] == 200
            return stats.tokens_prefilled - before

        assert computed("alpha") == 200
        assert computed("alpha") == 200 - 192  # three blocks of 64 are met again
        assert computed("beta") == 200
        assert computed("beta") == 200 - 192


def test_keys_open_every_route_but_health_and_their_limits_hold_on_each(tmp_path):
    few = f"{sha('few')} infer requests_per_minute=1"
    file = keys_file(tmp_path, "# ours", sha("alpha"), "", f"{sha('beta')} metrics", few)
    with serving(keys=load_keys(file)) as closed:
        paths = ("/v1/models", "/metrics", "/openapi.json", "/tokenize", "/nope", "/v1/completions")
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "alpha"}):
            for path in paths:
                status, body, told = closed.ask(path, headers=header)
                assert (status, body["error"]["code"]) == (401, "invalid_api_key")
                assert told["www-authenticate"] == "Bearer"
        assert closed.ask("/health")[0] == 200
        alpha, beta = ({"Authorization": f"Bearer {key}"} for key in ("alpha", "beta"))
        assert closed.ask("/v1/models", headers=alpha)[0] == 200
        assert closed.ask("/metrics", headers=beta)[0] == 200
        status, body, _ = closed.ask("/v1/models", headers=beta)
        assert (status, body["error"]["code"]) == (403, "missing_right")
        text = {"model": "nano", "prompt": "sort ba", "max_tokens": 1}
        gamma = {"Authorization": "Bearer few"}
        told = [closed.ask("/v1/completions", text, gamma)[0] for _ in range(2)]
        assert told == [200, 429]


@pytest.mark.parametrize(
    ("lines", "mode", "said"),
    [
        ((sha("a"),), 0o644, "mode 0644, expected 0600"),
        ((sha("a"),), 0o640, "chmod 600"),
        (("plain-key",), 0o600, "line 1 .* is no key"),
        ((f"{sha('a')} root",), 0o600, "line 1"),
        ((f"{sha('a')} infer runs=0",), 0o600, "line 1.*above 0"),
        ((f"{sha('a')} infer runs=x",), 0o600, "expected a number"),
        ((f"{sha('a')} runs=1 runs=2",), 0o600, "twice"),
        ((f"{sha('a')} infer spare=3",), 0o600, "spare.*known: name, requests"),
        (("# nothing",), 0o600, "holds no keys"),
    ],
)
def test_keys_files_that_are_refused(tmp_path, lines, mode, said):
    with pytest.raises(ConfigError, match=said):
        load_keys(keys_file(tmp_path, *lines, mode=mode))


def test_an_address_that_others_reach_needs_keys():
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(ConfigError, match="no keys"):
            check_binding(ServeConfig(host=host), has_keys=False)
        check_binding(ServeConfig(host=host), has_keys=True)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_binding(ServeConfig(host=host), has_keys=False)


def test_the_host_header_does_not_say_which_path_is_guarded(monkeypatch):
    def old_url(self):  # as Starlette 0.46 put it together
        address = f"http://{self.headers['host']}{self.scope['path']}"
        return SimpleNamespace(path=urlsplit(address).path)

    monkeypatch.setattr(Request, "url", property(old_url))
    keys = Keys((Key(bytes(32), frozenset({"infer"})),))
    guard = Guard(None, SimpleNamespace(config=ServeConfig(), keys=keys, metrics=None))
    head = {"headers": [(b"host", b"a/health?")], "query_string": b""}
    with pytest.raises(ApiError) as refused:
        guard.check(Request({"type": "http", "path": "/v1/models", **head}))
    assert refused.value.status == 401


def test_no_key_opens_by_a_prefix_or_another_scheme():
    keys = Keys(load_keys_of("alpha"))
    assert keys.rights("Bearer alpha")
    for wrong in ("Bearer alph", "Bearer alphaa", "Basic alpha", "Bearer", "", "Bearer \udcff"):
        assert keys.rights(wrong) is None


def load_keys_of(*names: str):
    from openzaya.serve.keys import RIGHTS, Key

    return tuple(Key(bytes.fromhex(sha(name)), RIGHTS) for name in names)


def test_metrics_count_and_hold_nothing_that_clients_sent(server):
    server.ask("/v1/secret-path-of-a-client")
    server.chat(max_tokens=3, user="secret-user")
    text = server.ask("/metrics")[1].decode()
    assert 'openzaya_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "openzaya_generated_tokens_total" in text
    assert "openzaya_choices_running" in text
    assert "secret" not in text


def figures(server) -> dict[tuple[str, ...], float]:
    """What /metrics tells: name and labels of every sample, and its value."""
    families = text_string_to_metric_families(server.ask("/metrics")[1].decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if family.documentation
    }


def test_metrics_tell_what_the_engine_did():
    with serving(slots=2) as small:
        total = small.engine._scheduler._cache.pools
        free = {("openzaya_engine_blocks", kind, "free"): p.num_blocks for kind, p in total.items()}
        assert figures(small).items() >= free.items()
        words = [{"role": "user", "content": "sort qdkax " * 20}]
        small.chat(messages=words, max_tokens=9, n=2, logit_bias=ENDLESS)
        small.settle()
        before = figures(small)
        small.chat(messages=words, max_tokens=9, logit_bias=ENDLESS)
        small.settle()
        after = figures(small)
        stats = small.engine.stats
        prompt = stats.tokens_prefill_saved
        assert prompt > 64
        engine = {name: value for name, value in after.items() if "_engine_" in name[0]}
        known = {
            "steps_total": stats.steps,
            "decode_steps_total": 16,
            "decoded_tokens_total": 24,
            "prefilled_tokens_total": 2 * prompt - stats.prefix_hit_tokens,
            "shared_prefill_tokens_total": prompt,
            "prefix_hit_tokens_total": stats.prefix_hit_tokens,
            "preemptions_total": 0,
            "evicted_blocks_total": 0,
            "prefix_bytes": stats.prefix_bytes,
        }
        assert (
            engine.items()
            >= {(f"openzaya_engine_{name}",): value for name, value in known.items()}.items()
        )
        assert stats.prefix_hit_tokens >= 64
        assert stats.prefix_bytes > 0
        assert after["openzaya_queue_seconds_count",] == 2
        assert after["openzaya_queue_seconds_sum",] > before["openzaya_queue_seconds_sum",]
        stats.preemptions, stats.evictions, stats.blocks_used = 3, 4, {"some": 5}
        stats.steps += 6
        told = figures(small)
        assert told["openzaya_engine_steps_total",] == stats.steps
        assert told["openzaya_engine_preemptions_total",] == 3
        assert told["openzaya_engine_evicted_blocks_total",] == 4
        assert told["openzaya_engine_blocks", "some", "used"] == 5


@pytest.fixture
def process(tmp_path):
    """Run `openzaya serve` as a user does; yields it with its port."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "XDG_STATE_HOME": str(tmp_path)}
    words = [sys.executable, "-m", "openzaya", "serve", "--port", "0", "--set", "threads=1"]
    child = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        line = child.stdout.readline().decode()
        assert "serving nano on http://127.0.0.1:" in line, child.stderr.read()
        assert child.stdout.readline().decode().strip().startswith("curl http://127.0.0.1:")
        yield child, int(line.split("127.0.0.1:")[1].split()[0])
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGHUP]])
def test_sigterm_and_a_closed_terminal_let_running_requests_finish(process, signals):
    child, port = process
    sock = begin(port, stream=True, max_tokens=200)
    answer = sock.recv(4096)
    for number in signals:
        child.send_signal(number)
        time.sleep(0.05)
    time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    while data := sock.recv(65536):
        answer += data
    sock.close()
    assert b"data: [DONE]" in answer
    assert answer.count(b"finish_reason") >= 1
    assert child.wait(timeout=10) == 0
    told = child.stderr.read().splitlines()
    assert len(told) == 1
    assert b" INFO request ended " in told[0]


def test_a_second_signal_ends_at_once(process):
    child, port = process
    with begin(port, stream=True) as sock:
        sock.recv(4096)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert child.poll() is None
        began = time.perf_counter()
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=5) == 130
        assert time.perf_counter() - began < 2


def test_only_the_named_port_listens(process):
    child, port = process
    inodes = set()
    for link in Path(f"/proc/{child.pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    listening = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{child.pid}/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[9] in inodes and cells[3] in ("0A", "07"):
                listening.append(cells[1])
    assert listening == [f"0100007F:{port:04X}"]


def test_a_taken_port_is_a_plain_error(server):
    with pytest.raises(ConfigError, match="choose another --port"):
        listen(ServeConfig(port=server.port))


def serve_once(app, config, listener) -> None:
    server = Server(app, config, lambda: None, lambda: None)
    asyncio.run(server.serve(sockets=[listener]))


def test_a_server_that_cannot_start_says_why():
    @asynccontextmanager
    async def failing(_app):
        raise ConfigError("the upstream is down")
        yield

    config = ServeConfig(port=0)
    with listen(config) as listener, pytest.raises(ConfigError, match="the upstream is down"):
        serve_once(Starlette(lifespan=failing), config, listener)


def test_a_port_that_is_taken_while_the_model_loads_is_a_plain_error():
    with listen(ServeConfig(port=0)) as first:
        config = ServeConfig(port=first.getsockname()[1])
        with listen(config) as second:  # both are bound, and none listens yet
            first.listen()
            with pytest.raises(ConfigError, match="choose another --port"):
                serve_once(Starlette(), config, second)


@pytest.mark.parametrize(
    "words",
    [
        ["--max-slots", "0"],
        ["--upstream", "http://127.0.0.1:1", "--model", "folder"],
        ["--upstream", "http://127.0.0.1:1", "--sandbox"],
    ],
)
def test_flags_that_make_no_sense_are_refused(words):
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    with pytest.raises(ConfigError):
        verb.read_config(parser.parse_args(words))


def test_a_journal_that_has_no_place_is_a_plain_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="journal=PATH"):
        verb.open_journal(GatewayConfig(journal=str(tmp_path / "file" / "runs.sqlite")))


def test_a_hundred_clients_that_leave_at_random_times_leak_nothing(server):
    def leave(seed: int) -> None:
        sock = begin(server.port, stream=bool(seed % 2), seed=seed)
        time.sleep((seed * 37 % 100) / 400)
        sock.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(leave, range(100)))
    server.settle()
    assert server.chat(temperature=0)["choices"][0]["message"]["content"] == "adkqx"


def test_the_error_type_follows_the_status():
    assert ApiError(429, "x").body["error"]["type"] == "rate_limit_error"
