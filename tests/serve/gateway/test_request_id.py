"""The id of a request: in every answer, in the log, at the upstream."""

import io
import json
import logging
import socket

import openai
import pytest
from serve.gateway.conftest import CHAT, QUESTION, SMALL, wait_for

from openzaya.serve.logs import JsonLines

BODY = {"model": "mock", "messages": QUESTION}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/health", None, 200),
        ("/v1/models", None, 200),
        ("/nope", None, 404),
        ("/metrics", {}, 405),
        (CHAT, BODY, 200),
        (CHAT, {**BODY, "stream": True}, 200),
        (CHAT, {**BODY, "ttc": SMALL}, 200),
        (CHAT, {**BODY, "ttc": SMALL, "stream": True}, 200),
        (CHAT, {**BODY, "n": 99}, 400),
        (CHAT, b"{", 400),
    ],
    ids=str,
)
def test_every_answer_has_the_id_that_its_client_gave(served, path, body, status):
    found, _, headers = served.ask(path, body, headers={"X-Request-Id": "my.id:7/+=_-"})
    assert (found, headers["x-request-id"]) == (status, "my.id:7/+=_-")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "h\u00e9", "a\tb", '"', "a;b"])
def test_an_id_that_a_log_could_not_hold_is_replaced(served, given):
    one, two = (
        served.ask("/health", headers={"X-Request-Id": given})[2]["x-request-id"] for _ in range(2)
    )
    assert one.startswith("req_")
    assert one != two


def test_what_is_no_http_is_answered_with_an_id(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(b"NOT HTTP\r\n\r\n")
        assert b"\r\nx-request-id: req_" in sock.recv(4096)


def test_the_sdk_knows_the_id(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(**BODY, extra_headers={"X-Request-Id": "sdk"})
        assert answer._request_id == "sdk"
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**BODY, n=99)
        assert refused.value.request_id.startswith("req_")


def test_the_log_is_told_the_id_and_the_upstream_is_not(served, mock, monkeypatch):
    seen = []
    complete = mock._complete

    def seeing(connection, request, **more):
        seen.append(request.header("x-request-id"))
        complete(connection, request, **more)

    monkeypatch.setattr(mock, "_complete", seeing)
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("openzaya")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        for name, more in (("plain", {}), ("run", {"ttc": SMALL})):
            served.ask(CHAT, {**BODY, **more}, headers={"X-Request-Id": name})
        wait_for(lambda: out.getvalue().count("request ended") == 2)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {(line["message"], line["request"]) for line in lines} == {
        ("request ended", "plain"),
        ("request ended", "run"),
        ("run began", "run"),
        ("run ended", "run"),
    }
    ended = [line for line in lines if line["message"] == "request ended"]
    assert {(line["route"], line["status"]) for line in ended} == {(CHAT, 200)}
    # vLLM names its own requests by it, so those of a run would have one name; llama.cpp's server
    # takes nothing but a UUID.
    assert len(seen) == 9
    assert not any(seen)
