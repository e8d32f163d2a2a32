"""The HTTP client against servers that are dead, foreign, slow or lying: never a wrong answer.

The honest server of ours is in tests/serve/test_sandbox_server.py.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from openzaya.core.errors import ConfigError, RequestError, SandboxError
from openzaya.sandbox import Executor, Request, Result, Status
from openzaya.sandbox.http import HttpExecutor

PASS = Request(source="pass")


def run_part(**fields):
    return {
        "status": "Finished",
        "execution_time": 0.1,
        "return_code": 0,
        "stdout": "",
        "stderr": "",
        **fields,
    }


def answer(status="Success", **fields):
    whole = {
        "status": status,
        "message": "",
        "compile_result": None,
        "run_result": run_part(),
        "executor_pod_name": None,
        "files": {},
    }
    return json.dumps({**whole, **fields}).encode()


class Foreign(BaseHTTPRequestHandler):
    """A server with SandboxFusion's fields and none of ours, that says what a test wants."""

    protocol_version = "HTTP/1.1"
    reply: tuple[int, bytes, dict[str, str]] = (200, answer(), {})
    ping: tuple[int, bytes, dict[str, str]] = (200, b'"pong"', {})
    bodies: list[dict] = []  # noqa: RUF012 - each test makes its own class

    def do_GET(self):
        self.say(self.ping)

    def do_POST(self):
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.say(self.reply)

    def say(self, reply):
        status, body, headers = reply
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def foreign(reply=None, **fields) -> Iterator[tuple[HttpExecutor, list[dict]]]:
    """Run such a server; yield a client of it and the bodies that it got."""
    if reply is not None:
        fields["reply"] = reply if isinstance(reply, tuple) else (200, reply, {})
    kind = type("Handler", (Foreign,), {"bodies": [], **fields})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield HttpExecutor(f"http://127.0.0.1:{server.server_port}", patience_s=0), kind.bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_dead_server_is_infra_and_refused_by_the_check():
    client = HttpExecutor(f"http://127.0.0.1:{free_port()}")
    result = client.run(PASS)
    assert result.status is Status.INFRA
    assert "refused" in result.reason
    with pytest.raises(SandboxError, match="serve --sandbox"):
        client.check()


def test_a_foreign_server_gets_the_fields_it_knows():
    request = Request(source="x", stdin=b"in", files={"a": b"\x00"}, fetch=("b",))
    reply = answer(run_result=run_part(stdout="out"), files={"b": "AAE="})
    with foreign(reply) as (client, bodies):
        result = client.run(request)
    assert (result.status, result.stdout, result.files) == (Status.OK, b"out", {"b": b"\x00\x01"})
    assert result.backend == "http"
    assert bodies == [
        {
            "code": "x",
            "language": "python",
            "run_timeout": 21.0,
            "memory_limit_MB": 512,
            "files": {"a": "AA=="},
            "fetch_files": ["b"],
            "stdin": "in",
        }
    ]


@pytest.mark.parametrize(
    ("fields", "status", "code", "signal"),
    [
        ({"run_result": run_part(return_code=3)}, Status.EXIT, 3, None),
        ({"run_result": run_part(return_code=-11)}, Status.SIGNAL, None, 11),
        (
            {"run_result": run_part(status="TimeLimitExceeded", return_code=None)},
            Status.TIME_WALL,
            None,
            None,
        ),
        (
            {"compile_result": run_part(return_code=1, stderr="error"), "run_result": None},
            Status.COMPILE,
            None,
            None,
        ),
    ],
)
def test_the_ends_of_a_foreign_server_are_understood(fields, status, code, signal):
    with foreign(answer("Failed", **fields)) as (client, _):
        result = client.run(PASS)
    assert (result.status, result.exit_code, result.signal) == (status, code, signal)


OURS = {"exit_code": 0, "signal": None, "cpu_s": 0.1, "wall_s": 0.1, "peak_bytes": 1}
OURS |= {"backend": "bwrap", "policy": "p", "reason": ""}
LIES = {
    "not JSON": b"<html>",
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "no status": answer().replace(b'"status": "Success"', b'"state": "Success"'),
    "unknown status": answer("Maybe"),
    "its own failure": answer("SandboxError", message="no cgroups"),
    "its own failure with an exit code": answer("SandboxError", run_result=run_part(return_code=1)),
    "no run": answer(run_result=None),
    "run without a code": answer(run_result=run_part(return_code=None)),
    "code is text": answer(run_result=run_part(return_code="0")),
    "code is true": answer(run_result=run_part(return_code=True)),
    "run had an error": answer("Failed", run_result=run_part(status="Error")),
    "success with a code": answer("Success", run_result=run_part(return_code=1)),
    "failure with code 0": answer("Failed"),
    "compiler too slow": answer(
        "Failed", compile_result=run_part(status="TimeLimitExceeded", return_code=None)
    ),
    "stdout is a number": answer(run_result=run_part(stdout=1)),
    "a file nobody asked for": answer(files={"../x": "AA=="}),
    "a file that is no base64": answer(files={"x": "\u00e9"}),
    "more output than allowed": answer(run_result=run_part(stdout="x" * (2**20 + 1))),
    "unknown verdict": answer(verdict="fine", detail=OURS),
    "verdict without detail": answer(verdict="ok"),
    "verdict with odd detail": answer(verdict="ok", detail={**OURS, "exit_code": "0"}),
    "verdict with odd time": answer(verdict="ok", detail={**OURS, "cpu_s": None}),
    "verdict of infra": answer("SandboxError", verdict="infra", detail=OURS),
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_makes_no_sense_is_infra(name):
    with foreign(LIES[name]) as (client, _):
        result = client.run(PASS)
    assert result.status is Status.INFRA
    assert result.reason or name == "verdict of infra"
    assert result.stdout == b""


@pytest.mark.parametrize("status", [204, 301, 302, 400, 401, 404, 422, 429, 500, 502, 503, 504])
def test_any_other_status_is_infra(status):
    reply = (status, b"", {"Location": "http://127.0.0.1:1/", "Content-Length": "0"})
    with foreign(reply) as (client, _):
        result = client.run(PASS)
    assert result.status is Status.INFRA
    assert str(status) in result.reason


def test_a_server_whose_ping_fails_is_asked_for_nothing():
    with foreign(ping=(500, b"", {})) as (client, bodies):
        result = client.run(PASS)
        assert bodies == []
    assert result.status is Status.INFRA
    assert "500" in result.reason


def test_an_answer_that_is_cut_or_endless_is_infra():
    body = answer()
    with foreign((200, body[:-5], {"Content-Length": str(len(body))})) as (client, _):
        assert client.run(PASS).status is Status.INFRA
    flood = answer(message="x" * (40 * 2**20))
    with foreign(flood) as (client, _):
        result = client.run(PASS)
    assert result.status is Status.INFRA
    assert "longer than" in result.reason


def test_a_server_that_speaks_no_http_is_infra():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble():
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"\x00\x01\x02\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        client = HttpExecutor(f"http://127.0.0.1:{listener.getsockname()[1]}")
        results = [client.run(PASS) for _ in range(2)]
        thread.join()
    assert [result.status for result in results] == [Status.INFRA] * 2


def test_what_a_foreign_server_cannot_carry_is_refused_and_not_sent():
    with foreign() as (client, bodies):
        with pytest.raises(RequestError, match="arguments"):
            client.run(Request(source="pass", arguments=("x",)))
        with pytest.raises(RequestError, match="UTF-8"):
            client.run(Request(source="pass", stdin=b"\xff"))
        with pytest.raises(RequestError, match="file name"):
            client.run(Request(source="pass", files={"../x": b""}))
    assert bodies == []


def test_the_key_is_sent_and_comes_from_the_environment(monkeypatch):
    seen = []

    class Noting(Foreign):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OPENZAYA_SANDBOX_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OPENZAYA_SANDBOX_KEY", "secret")
    client = Executor.default("http")
    assert isinstance(client, HttpExecutor)
    client.check()
    server.shutdown()
    server.server_close()
    thread.join()
    assert seen == ["Bearer secret"]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://x:99999"])
def test_an_address_that_is_none_is_refused(url, monkeypatch):
    monkeypatch.delenv("OPENZAYA_SANDBOX_URL", raising=False)
    with pytest.raises(ConfigError, match="OPENZAYA_SANDBOX_URL"):
        HttpExecutor(url)


class Patient(Foreign):
    """A server that works until its client has gone."""

    def do_POST(self):
        self.server.working.set()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.connection.settimeout(20)
        self.server.gone.append(self.connection.recv(1) == b"")


@contextmanager
def working(kind: type) -> Iterator[tuple[HttpExecutor, ThreadingHTTPServer]]:
    """Run such a server while the block runs; yield a client of it that has time."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.working, server.gone = threading.Event(), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield HttpExecutor(f"http://127.0.0.1:{server.server_port}", patience_s=60), server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def leave(client: HttpExecutor, server: ThreadingHTTPServer, end) -> tuple[Result, float]:
    """Ask for a run, give it up by `end` once the server works; return what came and when."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.run, Request(source="pass", stop=stop))
        assert server.working.wait(10)
        began = time.monotonic()
        end(client, stop)
        result = running.result()
    return result, time.monotonic() - began


@pytest.mark.parametrize("end", [lambda _, stop: stop.set(), lambda client, _: client.close()])
def test_a_run_that_nobody_wants_any_more_is_hung_up_on(end):
    with working(Patient) as (client, server):
        result, took_s = leave(client, server, end)
    assert (result.status, took_s < 5) == (Status.INFRA, True), result
    assert "nobody wants" in result.reason
    assert server.gone == [True]


def test_a_run_that_nobody_wants_any_more_is_not_asked_for_again():
    class Full(Foreign):
        reply = (503, b"", {"Retry-After": "30"})

        def do_POST(self):
            super().do_POST()
            self.server.working.set()

    with working(Full) as (client, server):
        result, took_s = leave(client, server, lambda _, stop: stop.set())
    assert (result.status, took_s < 5) == (Status.INFRA, True), result
    assert "nobody wants" in result.reason


def test_a_closed_client_runs_nothing():
    client = HttpExecutor("http://127.0.0.1:1")
    client.close()
    with pytest.raises(SandboxError, match="closed"):
        client.run(PASS)
