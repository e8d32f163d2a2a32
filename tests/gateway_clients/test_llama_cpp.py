"""The gateway before llama.cpp's server of the package llama-cpp-python.

The package is compiled when it is installed, and the model is written here:
pip install 'llama-cpp-python[server]' gguf
"""

import asyncio
import http.client
import importlib.util
import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from gateway_clients.asking import ask
from gateway_clients.test_real_upstreams import free_port
from gateway_clients.tiny_gguf import write_tiny_llama
from server_process import python, server_process

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.pool import Upstreams

NEEDED = ("llama_cpp", "gguf", "fastapi", "sse_starlette", "starlette_context")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="needs llama.cpp: pip install 'llama-cpp-python[server]' gguf",
    ),
]
TTC = {"num_candidates": 4, "tails_per_prompt": 2, "rounds": 1, "budget_tokens": 60}
TTC["tail_tokens"] = 24
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "sort qdkax"}]}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server as it comes, with our model."""
    folder = tmp_path_factory.mktemp("llama")
    write_tiny_llama(folder / "tiny.gguf")
    port = free_port()
    words = ["llama_cpp.server", "--model", str(folder / "tiny.gguf"), "--port", str(port)]
    words += ["--model_alias", "tiny", "--n_ctx", "2048", "--n_threads", "1"]
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    url = f"http://localhost:{port}"
    with server_process(python(*words), folder / "llama.log", url, env, "/v1/models") as url:
        yield url


@pytest.fixture(scope="module")
def gateway(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    words = ["openzaya", "serve", "--upstream", llama, "--port", "0", "--set", "drain_s=3"]
    words += ["--set", f"journal={folder / 'runs.db'}"]
    with server_process(python(*words), folder / "gateway.log") as url:
        yield url


post = partial(ask, body=BODY)


def figures(gateway: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{gateway}/health", timeout=10) as response:
        return json.load(response)["upstreams"][0]


def said(stream: str) -> str:
    """Return the content of a stream."""
    lines = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line).get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_the_probe_finds_out_that_it_takes_one_call_at_a_time(llama):
    async def main():
        async with Upstreams([HttpConfig(url=llama)]) as pool:
            return pool.models, pool.status()["upstreams"][0]

    models, found = asyncio.run(asyncio.wait_for(main(), 60))
    assert models == ("tiny",)
    assert found["limit"] == found["capabilities"]["max_in_flight"] == 1
    can = found["capabilities"]
    assert (can["engine"], can["extensions"], can["length_field"]) == (
        "llama-cpp-python",
        True,
        "max_tokens",
    )
    assert not any(can[name] for name in ("ids_out", "ids_in", "tokenize", "continuation"))


def test_plain_requests_pass_through_whole_and_as_streams(gateway):
    whole = post(gateway, max_tokens=20, seed=3)
    assert whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 20
    stream = post(gateway, max_tokens=20, seed=3, stream=True)
    assert stream.rstrip().endswith("data: [DONE]")
    assert said(stream) == whole["choices"][0]["message"]["content"]


def test_a_run_is_whole_although_the_server_drops_a_call_for_every_new_one(gateway):
    before = figures(gateway)
    answer = post(gateway, ttc=TTC, seed=3)
    told = answer["ttc"]
    assert (told["calls"], told["degraded"], told["stages"]) == (8, False, 2)
    assert 0 < answer["usage"]["completion_tokens"] <= 8 * 60
    assert told["tail_method"].startswith("approximate")
    after = figures(gateway)
    assert after["ok"] - before["ok"] == 8
    assert after["failures"] == before["failures"] == {}
    stream = post(gateway, ttc=TTC, seed=3, stream=True)
    assert stream.rstrip().endswith("data: [DONE]")


def test_a_client_that_leaves_ends_the_call_at_the_server(gateway):
    before = figures(gateway)["aborted"]
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=30)
    body = {**BODY, "stream": True, "ttc": {**TTC, "budget_tokens": 1900, "rounds": 0}}
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    until = time.monotonic() + 30
    while figures(gateway)["in_flight"] == 0:
        assert time.monotonic() < until
    response.close()
    connection.close()
    while figures(gateway)["in_flight"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert figures(gateway)["aborted"] == before + 1
    assert post(gateway, max_tokens=2)["usage"]["completion_tokens"] == 2
