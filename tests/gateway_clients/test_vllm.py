"""The gateway before vLLM, with a model that is written here.

vLLM wants other versions of packages than we do, so it comes from an environment of its own, which
`OPENZAYA_VLLM` names: the path of its program `vllm`. Its CPU build will do.
"""

import asyncio
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

import pytest
from gateway_clients.asking import ask
from gateway_clients.test_real_upstreams import free_port
from gateway_clients.tiny_qwen3 import CONTEXT, write_tiny_qwen3
from server_process import python, server_process

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.pool import Upstreams

PROGRAM = os.environ.get("OPENZAYA_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="needs vLLM: OPENZAYA_VLLM=/path/to/bin/vllm"),
]
TTC = {"num_candidates": 4, "tails_per_prompt": 2, "rounds": 1, "budget_tokens": 200}
TTC["tail_tokens"] = 8
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Which digit?"}]}
SCHEMA = {"type": "object", "properties": {"digit": {"enum": [1, 2]}}, "required": ["digit"]}
SCHEMA["additionalProperties"] = False


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server as it comes, with our model."""
    folder = tmp_path_factory.mktemp("vllm")
    write_tiny_qwen3(folder / "tiny")
    port = free_port()
    words = [PROGRAM, "serve", str(folder / "tiny"), "--served-model-name", "tiny"]
    words += ["--port", str(port), "--max-model-len", str(CONTEXT), "--reasoning-parser", "qwen3"]
    # On a CPU it dies of a seeded prompt that comes in pieces, so none may.
    words += [
        "--enforce-eager",
        "--max-num-seqs",
        "8",
        "--max-num-batched-tokens",
        str(8 * CONTEXT),
    ]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env["PYTHONPATH"] = ""
    with server_process(words, folder / "vllm.log", f"http://127.0.0.1:{port}", env) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(vllm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    words = ["openzaya", "serve", "--upstream", vllm, "--port", "0"]
    words += ["--set", f"journal={folder / 'runs.db'}"]
    with server_process(python(*words), folder / "gateway.log") as url:
        yield url


post = partial(ask, body=BODY)


def metric(vllm: str, name: str) -> float:
    """Return a figure of vLLM's own."""
    with urllib.request.urlopen(f"{vllm}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_the_probe_finds_out_what_it_can(vllm):
    async def main():
        async with Upstreams([HttpConfig(url=vllm)]) as pool:
            return pool.models, pool.status()["upstreams"][0]["capabilities"]

    models, can = asyncio.run(asyncio.wait_for(main(), 60))
    assert models == ("tiny",)
    assert (can["engine"], can["context_tokens"], can["max_in_flight"]) == ("vllm", CONTEXT, None)
    for name in ("extensions", "ids_out", "ids_in", "tokenize", "continuation", "honours_n"):
        assert can[name], name


def test_a_run_is_cut_by_its_ids_and_billed_as_vllm_counts(vllm, gateway):
    before = metric(vllm, "generation_tokens_total")
    answer = post(gateway, ttc=TTC, seed=3)
    told, (choice,) = answer["ttc"], answer["choices"]
    assert (told["calls"], told["degraded"], told["stages"]) == (8, False, 2)
    assert told["tail_method"] == "exact (token ids of the server)"
    assert choice["message"]["content"] == told["answer"]
    assert told["answer"] in set("0123456789")
    assert sum(told["answers"][1].values()) == 4
    thought = choice["message"]["reasoning_content"]
    assert thought.isalpha()
    assert thought.islower()
    generated = metric(vllm, "generation_tokens_total") - before
    assert answer["usage"]["completion_tokens"] == generated > 8 * 3
    again = post(gateway, ttc=TTC, seed=3)
    assert again["choices"] == answer["choices"]
    assert post(gateway, ttc=TTC, seed=3, stream=True).rstrip().endswith("data: [DONE]")


def test_a_thought_without_end_is_made_to_answer(gateway):
    # Half of the thoughts have more than 18 letters; those are closed and go on in a second call.
    short = {**TTC, "budget_tokens": 34, "answer_reserve_tokens": 16}
    told = post(gateway, ttc=short, seed=1)["ttc"]
    assert told["calls"] > 8
    assert sum(told["answers"][1].values()) == 4


def test_the_last_stage_keeps_to_a_schema(gateway):
    form = {"type": "json_schema", "json_schema": {"name": "digit", "schema": SCHEMA}}
    for seed in range(3):
        (choice,) = post(gateway, ttc=TTC, seed=seed, response_format=form)["choices"]
        assert json.loads(choice["message"]["content"])["digit"] in (1, 2)


def test_no_stage_without_the_schema_answers_for_one_that_was_cut(gateway):
    form = {"type": "json_schema", "json_schema": {"name": "digit", "schema": SCHEMA}}
    answer = post(gateway, ttc=TTC, max_tokens=4, seed=1, response_format=form)
    assert answer["ttc"]["winner"]["stage"] == 1
    assert answer["choices"][0]["finish_reason"] == "length"


def test_plain_requests_pass_through_and_refusals_come_back(gateway):
    whole = post(gateway, seed=3, max_tokens=100)
    (choice,) = whole["choices"]
    assert choice["message"]["content"].strip() in set("0123456789")
    assert choice["message"]["reasoning"].isalpha()
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(gateway, messages=[{"role": "user", "content": "x" * CONTEXT}])
    assert refused.value.code == 400
    assert "context" in refused.value.__notes__[0]


@pytest.mark.parametrize("fields", [{"ttc": {**TTC, "budget_tokens": 1500}}, {"stream": True}])
def test_a_client_that_leaves_ends_its_calls_at_vllm(vllm, gateway, fields):
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=30)
    body = {**BODY, "ignore_eos": True, "max_tokens": 1500, **fields}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    until = time.monotonic() + 60
    while metric(vllm, "num_requests_running") == 0:
        assert time.monotonic() < until
    connection.close()
    aborted = metric(vllm, "generation_tokens_total")
    while metric(vllm, "num_requests_running"):
        assert time.monotonic() < until
    assert metric(vllm, "generation_tokens_total") - aborted < 1000
