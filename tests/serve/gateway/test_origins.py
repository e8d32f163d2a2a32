"""Web pages of other origins, addresses with a wrong base, and files that run out."""

import json
import logging
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
from serve.gateway.conftest import CHAT, QUESTION, gatewaying

from openzaya.core.errors import ConfigError
from openzaya.serve.config import ServeConfig, check_binding
from openzaya.serve.keys import Key, Keys
from openzaya.serve.logs import NoFlood

APP = "https://app.example"
LEAVE = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
}
KEYS = Keys((Key(b"x" * 32, frozenset({"infer"})),))


@pytest.fixture(scope="module")
def open_to_app(mock, tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "j"
    with gatewaying(mock, path, KEYS, origins=(APP, "http://localhost:3000")) as gateway:
        yield gateway


def test_a_browser_may_ask_for_a_page_that_is_named_and_needs_no_key_for_that(open_to_app):
    status, _, headers = open_to_app.ask(CHAT, headers=LEAVE, method="OPTIONS")
    assert status == 204
    assert headers["access-control-allow-origin"] == APP
    assert headers["access-control-allow-headers"] == LEAVE["Access-Control-Request-Headers"]
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["vary"] == "Origin"


def test_the_page_reads_answers_and_errors(open_to_app):
    for path, status in (("/health", 200), ("/v1/models", 401), ("/nope", 401)):
        found, _, headers = open_to_app.ask(path, headers={"Origin": APP})
        assert (found, headers["access-control-allow-origin"]) == (status, APP)
        assert "X-Request-Id" in headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{APP}.evil", f"{APP}:8443"])
def test_pages_that_are_not_named_are_refused_without_leave(open_to_app, origin):
    for method in ("OPTIONS", "GET"):
        found, _, headers = open_to_app.ask(
            "/health", headers={**LEAVE, "Origin": origin}, method=method
        )
        assert found == 403
        assert "access-control-allow-origin" not in headers


def test_an_options_request_that_asks_no_leave_needs_a_key(open_to_app):
    assert open_to_app.ask(CHAT, headers={"Origin": APP}, method="OPTIONS")[0] == 401


def test_without_the_setting_no_page_is_told_anything(served):
    status, _, headers = served.ask(CHAT, headers=LEAVE, method="OPTIONS")
    assert status == 403
    assert not [name for name in headers if name.startswith(("access-control", "vary"))]


@pytest.mark.parametrize("origin", ["app.example", f"{APP}/path", "https://a b", "", "null"])
def test_what_is_no_origin_is_refused_at_the_start(origin):
    with pytest.raises(ConfigError, match="origins"):
        ServeConfig(origins=(origin,))


def test_all_origins_need_keys():
    config = ServeConfig(origins=("*",))
    with pytest.raises(ConfigError, match="--keys"):
        check_binding(config, has_keys=False)
    check_binding(config, has_keys=True)
    check_binding(replace(config, origins=(APP, "http://localhost:3000")), has_keys=False)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/api/v1/models", "/v1/models"),
        ("/nope", None),
        ("/v1", None),
    ],
)
def test_an_address_with_a_wrong_base_is_told_the_right_one(served, path, hint):
    status, body, _ = served.ask(path, {"messages": QUESTION})
    assert status == 404
    message = body["error"]["message"]
    assert message == "there is no such address" + (f"; {hint} is one" if hint else "")


def test_a_server_takes_the_files_that_it_may_have():
    code = """
import json, resource
from openzaya.serve.wire import allow_files
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
hard = min(hard, 4096) if hard > 0 else 4096
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
allow_files()
print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), hard]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    limits, hard = json.loads(done.stdout)
    assert limits == [hard, hard]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


def test_a_server_without_files_does_not_flood_its_log():
    keep = NoFlood()

    def kept(name, message, at):
        record = logging.LogRecord(name, logging.ERROR, "x.py", 1, message, (), None)
        record.created = at
        return keep.filter(record)

    full = "socket.accept() out of system resource\nsocket: ..."  # as asyncio writes it
    assert [kept("asyncio", full, at) for at in (10.0, 10.0, 10.5, 11.0, 11.5)] == [1, 0, 0, 1, 0]
    assert kept("asyncio", full, 3.0)  # the clock was set back
    assert all(kept("asyncio", "Task exception was never retrieved", 11.5) for _ in range(3))
    assert all(kept("openzaya.serve", full, 11.5) for _ in range(3))
