"""A reserve for the answer, over an upstream that continues turns and on our own engine."""

import argparse
import json
from collections.abc import Iterator

import pytest
from running_server import ask, listening
from serve.gateway.conftest import CHAT, QUESTION, Running, gatewaying, upstream

from openzaya.backends.mock import MockConfig
from openzaya.cli import serve as verb
from openzaya.core.records import Watch
from openzaya.serve.gateway.assembly import engine_gateway
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.live_text import LiveText
from openzaya.serve.gateway.upstreams import _Overheard
from openzaya.serve.keys import Keys
from openzaya.ttc.continuing import CLOSING, Sequel
from openzaya.ttc.journal import Journal

TTC = {"num_candidates": 4, "rounds": 1, "budget_tokens": 100, "tail_tokens": 20}
RESERVE = {**TTC, "answer_reserve_tokens": 40}
LONG = MockConfig(ttft_s=0.001, length="fixed:400", kept_requests=64)


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An upstream whose thinking is always longer than the budget, and that continues turns."""
    folder = tmp_path_factory.mktemp("able")
    config = MockConfig(
        ttft_s=0.001, length="fixed:400", kept_requests=64, can_continue=True, accuracy=1.0
    )
    with upstream(config) as mock, gatewaying(mock, folder / "j.sqlite") as running:
        yield running


def test_the_probe_decides_who_can(able, tmp_path):
    assert able.ask("/health")[1]["upstreams"][0]["capabilities"]["continuation"] is True
    with upstream(LONG) as mock, gatewaying(mock, tmp_path / "j.sqlite") as unable:
        assert unable.ask("/health")[1]["upstreams"][0]["capabilities"]["continuation"] is False
        answer = unable.run(ttc=RESERVE)
        assert any("answer_reserve_tokens needs" in note for note in answer["ttc"]["notes"])
        assert not answer["choices"][0]["message"]["content"]
        assert answer["ttc"]["calls"] == 8


def test_traces_that_think_too_long_answer_in_a_second_call(able):
    able.mock.records.requests.clear()
    answer = able.run(ttc=RESERVE, seed=4, top_k=7, tool_choice="none")
    assert "boxed{" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert sum(answer["ttc"]["answers"][-1].values()) == 4
    assert answer["ttc"]["calls"] == 12
    bodies = [kept["body"] for kept in able.mock.records.requests]
    second = [body for body in bodies if body.get("continue_final_message")]
    assert len(bodies) == 12
    assert len(second) == 4
    for body in second:
        assert body["add_generation_prompt"] is False
        assert (body["max_tokens"], body["top_k"]) == (40 - 8, 7)
        question, turn = body["messages"][-2:]
        assert (question["role"], turn["role"]) == ("user", "assistant")
        assert turn["content"].startswith("<think>\n")
        assert turn["content"].endswith("\n</think>\n\n")
    sent = sum(record.num_tokens for record in list(able.mock.records.log)[-12:])
    assert answer["usage"]["completion_tokens"] == sent
    winner = able.ask(f"/v1/ttc/runs/{answer['ttc']['run_id']}")[1]["winner"]
    where = f"candidates/{winner['stage']}/{winner['slot']}"
    kept = able.ask(f"/v1/ttc/runs/{answer['ttc']['run_id']}/{where}")[1]
    assert answer["choices"][0]["message"]["content"] in kept["text"]


def test_a_stream_goes_on_with_the_answer_behind_the_thinking(able):
    ttc = {**RESERVE, "final_candidates": 1}
    whole = able.run(ttc=ttc, seed=6)["choices"][0]["message"]
    chunks, _ = able.stream(ttc=ttc, seed=6)
    for name in ("reasoning_content", "content"):
        told = [c["delta"].get(name) or "" for chunk in chunks for c in chunk["choices"]]
        assert "".join(told) == whole[name]
        assert whole[name]


def test_a_second_call_that_is_tried_again_does_not_tear_the_stream(able):
    ttc = {**RESERVE, "rounds": 0, "num_candidates": 1, "tails_per_prompt": 1}
    calls = able.mock.records.calls
    able.mock.set_faults([f"cut@{calls + 2}"])
    try:
        chunks, _ = able.stream(ttc=ttc, seed=6)
    finally:
        able.mock.set_faults([])
    told = [c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]]
    assert "".join(told).count("boxed{") == 1
    assert able.mock.records.calls == calls + 3


def test_a_live_answer_hears_a_second_call_behind_the_first():
    live = LiveText(lambda: None)
    outer = Watch()
    first = _Overheard(outer, live)
    first.add("so it is 7", 5)
    outer.add(CLOSING, 0)
    second = _Overheard(Sequel(outer), live)
    second.add("The ans", 2)
    second.restart()
    second.add("The answer", 3)
    assert (live.reasoning, live.content) == ("so it is 7", "The answer")
    assert not live.is_torn
    assert "".join(outer.pieces) == f"so it is 7{CLOSING}The answer"
    assert outer.num_tokens == 8


def test_a_reserve_must_leave_room_to_think(able):
    body = {"model": "mock", "messages": QUESTION, "ttc": RESERVE}
    status, told, _ = able.ask(CHAT, {**body, "max_tokens": 40})
    assert (status, told["error"]["param"]) == (400, "ttc")
    assert "answer_reserve_tokens" in told["error"]["message"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gateway over the nano model in this process."""
    config = GatewayConfig(port=0, model_name="nano")
    args = argparse.Namespace(model="nano", max_slots=8, context=1024)
    service = verb.load_service(args, config, Keys(), threads=1)
    kept = Journal.open(str(tmp_path_factory.mktemp("engine") / "j.sqlite"))
    app, _ = engine_gateway(service, config, kept, max_slots=8)
    with listening(app, config) as port:
        yield port


def test_what_a_run_reads_on_our_own_engine_is_bounded_by_its_own_tokens(engine):
    """Not by bytes, as before servers whose tokenizer nobody knows."""
    ttc = {"num_candidates": 2, "rounds": 1, "budget_tokens": 64, "tail_tokens": 8}
    ttc |= {"tails_per_prompt": 2, "final_budget_tokens": 64}
    body = {"model": "nano", "messages": [{"role": "user", "content": "sort qdkax \u00e9\u4e2d"}]}
    status, answer, _ = ask(engine, CHAT, {**body, "ttc": ttc})
    assert status == 200, answer
    cap = ask(engine, f"/v1/ttc/runs/{answer['ttc']['run_id']}")[1]["run"]["preview"]["prefill_cap"]
    assert 0 <= cap - answer["ttc"]["usage"]["prefill"] <= 2 * 2 * 8  # tails may be shorter


@pytest.mark.parametrize("streams", [False, True])
def test_our_own_engine_answers_although_its_thinking_was_ended(engine, streams):
    """Four tokens are too few for the nano model to think, and then it answers all the same."""
    ttc = {"num_candidates": 1, "rounds": 0, "budget_tokens": 24, "tail_tokens": 8}
    ttc |= {"answer_reserve_tokens": 20}
    body = {"model": "nano", "messages": [{"role": "user", "content": "sort qdkax"}], "seed": 1}
    status, answer, _ = ask(engine, CHAT, {**body, "ttc": ttc})
    assert status == 200, answer
    message = answer["choices"][0]["message"]
    assert "#adkqx".startswith(message["reasoning_content"])
    assert len(message["reasoning_content"]) == 4
    assert message["content"]
    assert "</think>" not in message["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["ttc"]["calls"] == 2
    assert 4 < answer["usage"]["completion_tokens"] <= 24
    if streams:
        raw = ask(engine, CHAT, {**body, "ttc": ttc, "stream": True})[1].decode()
        parts = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for part in parts for choice in part["choices"]]
        for name in ("reasoning_content", "content"):
            assert "".join(delta.get(name) or "" for delta in deltas) == message[name]
        assert raw.rstrip().endswith("[DONE]")
