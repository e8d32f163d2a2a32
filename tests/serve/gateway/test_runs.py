"""Runs through the API: answers, streams, tools, what upstreams see, the journal's views."""

import json
import logging
import sqlite3
import time
from dataclasses import replace

import openai
import pytest
from serve.gateway.conftest import CHAT, QUESTION, SMALL, gatewaying, upstream, wait_for

from openzaya.backends.mock import MockConfig
from openzaya.serve.gateway.answer import extractor
from openzaya.serve.gateway.backend import Wish
from openzaya.serve.gateway.conversation import Conversation
from openzaya.serve.gateway.schema import OpenMessage
from openzaya.serve.logs import TextLines
from openzaya.ttc import MarkovianRSAConfig

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
]


def since(served, count):
    """The bodies that the upstream has seen after the first `count`."""
    return [kept["body"] for kept in list(served.mock.records.requests)[count:]]


def num_seen(served):
    return len(served.mock.records.requests)


def test_a_preset_is_a_model_name_and_the_bill_is_every_generated_token(served):
    before = served.mock.records.completion_tokens
    status, answer, _ = served.ask(CHAT, {"model": "mock:mrsa-light", "messages": QUESTION})
    assert status == 200
    ttc = answer["ttc"]
    assert answer["model"] == "mock:mrsa-light"
    assert (ttc["stages"], ttc["calls"], ttc["preset"]) == (3, 48, "light")
    generated = served.mock.records.completion_tokens - before
    assert answer["usage"]["completion_tokens"] == ttc["usage"]["generated"] == generated
    assert ttc["usage"]["final"] + ttc["usage"]["exploration"] == generated
    assert ttc["usage"]["prefill"] > answer["usage"]["prompt_tokens"] > 0
    assert sum(ttc["answers"][2].values()) == 16
    votes = ttc["answers"][2]
    assert votes[ttc["answer"]] == max(votes.values())
    assert ttc["answer"] in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["message"]["reasoning_content"]


def test_false_and_a_plain_name_pass_through_without_a_run(served):
    before = num_seen(served)
    for body in ({"model": "mock"}, {"model": "mock:mrsa-16k", "ttc": False}):
        status, answer, _ = served.ask(CHAT, {"messages": QUESTION, "novel": {"a": [1]}, **body})
        assert status == 200
        assert "ttc" not in answer
    seen = since(served, before)
    assert [body["model"] for body in seen] == ["mock", "mock"]
    assert all(body["novel"] == {"a": [1]} and "ttc" not in body for body in seen)


def test_fields_reach_the_stages_that_they_are_for(served):
    before = num_seen(served)
    served.run(
        messages=[{"role": "system", "content": "Be kind."}, *QUESTION],
        novel=[1, {"a": 2}],
        top_k=7,
        stop=["STOP"],
        tools=TOOLS,
        max_tokens=100,
        temperature=0.5,
        user="ada",
    )
    seen = since(served, before)
    assert len(seen) == 8
    early, late = seen[:4], seen[4:]
    for body in seen:
        assert (body["novel"], body["top_k"], body["user"]) == ([1, {"a": 2}], 7, "ada")
        assert body["temperature"] == 0.5
        assert body["messages"][0] == {"role": "system", "content": "Be kind."}
        assert not {"ttc", "n"} & set(body)
    assert all(not {"tools", "stop"} & set(body) and body["max_tokens"] == 4096 for body in early)
    assert all(b["tools"] == TOOLS and b["stop"] == ["STOP"] for b in late)
    assert all(body["max_tokens"] == 100 for body in late)
    assert all(QUESTION[0]["content"] in body["messages"][-1]["content"] for body in late)


def test_only_the_last_user_turn_is_replaced_whatever_stands_around_it(served):
    before = num_seen(served)
    picture = {"type": "image_url", "image_url": {"url": "data:,x"}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    history = [
        {"role": "user", "content": "First."},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Look."}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]
    served.run(messages=history, tools=TOOLS)
    for body in since(served, before):
        told = body["messages"]
        assert told[:2] == history[:2]
        assert told[3]["tool_calls"] == [call]
        assert told[4] == history[4]
        assert picture in told[2]["content"]
    assert "Look." in json.dumps(body["messages"][2])
    assert len(json.dumps(body["messages"][2])) > len(json.dumps(history[2])) + 100


def test_tool_calls_are_voted_on_by_name_and_arguments(served):
    answer = served.run(tools=TOOLS, ttc={**SMALL, "consensus": 0.9})
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "add"
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    votes = answer["ttc"]["answers"][-1]
    assert all(json.loads(vote)[0]["name"] == "add" for vote in votes)
    chunks, _ = served.stream(tools=TOOLS)
    called = [c for chunk in chunks for c in chunk["choices"] if c["delta"].get("tool_calls")]
    assert called[0]["delta"]["tool_calls"][0]["function"]["name"] == "add"


NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize("tool_choice", ["required", NAMED, "auto"])
def test_a_call_that_must_be_made_is_not_replaced_by_the_prose_of_an_earlier_stage(
    served, tool_choice
):
    answer = served.run(tools=TOOLS, tool_choice=tool_choice, max_tokens=8)  # ends in the thinking
    (choice,) = answer["choices"]
    if tool_choice == "auto":
        assert (answer["ttc"]["winner"]["stage"], choice["finish_reason"]) == (0, "stop")
    else:
        assert (answer["ttc"]["winner"]["stage"], choice["finish_reason"]) == (1, "length")
        assert not choice["message"]["content"]


def test_only_calls_vote_where_one_must_be_made():
    turns = [OpenMessage(**turn) for turn in QUESTION]
    wish = Wish(
        conversation=Conversation.of(turns),
        config=MarkovianRSAConfig(),
        tools={"add": {}},
        must_call=True,
    )
    assert extractor(wish)("no call") is None
    assert extractor(replace(wish, must_call=False))("no call") == "no call"


def test_n_choices_are_different_final_candidates_of_the_same_run(served):
    one = served.run(seed=5, ttc={**SMALL, "num_candidates": 8})
    many = served.run(seed=5, n=3, ttc={**SMALL, "num_candidates": 8})
    assert many["ttc"]["calls"] == one["ttc"]["calls"] == 16
    texts = [choice["message"]["content"] for choice in many["choices"]]
    assert len(texts) == 3
    assert texts[0] == one["choices"][0]["message"]["content"]
    assert len(set(texts)) >= min(3, len(one["ttc"]["answers"][-1]))
    status, body, _ = served.ask(
        CHAT, {"model": "mock", "messages": QUESTION, "ttc": SMALL, "n": 5}
    )
    assert (status, body["error"]["param"]) == (400, "n")


def test_a_seed_makes_the_same_answer_and_none_another_run(served):
    first, again = (served.run(seed=11) for _ in range(2))
    assert first["choices"] == again["choices"]
    assert first["ttc"]["run_id"] != again["ttc"]["run_id"]
    assert served.run()["ttc"]["seed"] != served.run()["ttc"]["seed"]


def test_a_stream_says_what_the_whole_answer_says(served):
    whole = served.run(seed=3)
    chunks, comments = served.stream(seed=3, stream_options={"include_usage": True})
    text = {"reasoning_content": "", "content": ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name in text:
                text[name] += choice["delta"].get(name) or ""
    assert text["content"] == whole["choices"][0]["message"]["content"]
    assert text["reasoning_content"] == whole["choices"][0]["message"]["reasoning_content"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["choices"] == []
    assert chunks[-2]["ttc"]["answers"] == whole["ttc"]["answers"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert any("stage 1 of 2" in comment for comment in comments)
    assert not any("stage 3 of 2" in comment for comment in comments)


def test_every_answer_of_a_run_names_the_run_in_a_header(served):
    body = {"model": "mock", "messages": QUESTION, "ttc": SMALL}
    _, answer, headers = served.ask(CHAT, body)
    assert headers["x-run-id"] == answer["ttc"]["run_id"]
    _, raw, headers = served.ask(CHAT, {**body, "stream": True})
    assert f": run {headers['x-run-id']}\n" in raw.decode()
    assert headers["content-type"].startswith("text/event-stream")


def test_the_log_holds_the_question_only_where_it_is_asked_for(mock, tmp_path, caplog):
    caplog.set_level(logging.INFO, "openzaya.gateway")
    for asks in (False, True):
        caplog.clear()
        with gatewaying(mock, tmp_path / f"{asks}.sqlite", log_prompts=asks) as served:
            served.run()
        told = "\n".join(map(TextLines().format, caplog.records))
        assert "run began" in told
        assert (QUESTION[0]["content"] in told) == asks


def test_progress_comes_as_the_client_asks_for_it(served):
    chunks, comments = served.stream(ttc={**SMALL, "progress": "none"})
    assert not any("stage" in comment for comment in comments)
    chunks, comments = served.stream(ttc={**SMALL, "progress": "reasoning"})
    assert not any("stage" in comment for comment in comments)
    said = [c["delta"].get("reasoning_content", "") for k in chunks for c in k["choices"]]
    assert any(line.startswith("stage 1 of 2") for line in said)


def test_a_single_final_candidate_is_streamed_while_it_is_written(slow):
    body = {"num_candidates": 1, "rounds": 0, "budget_tokens": 100, "tail_tokens": 8}
    sock = slow.begin(stream=True, ttc=body, max_tokens=12)
    answer, times = b"", []
    while b"[DONE]" not in answer:
        answer += sock.recv(65536)
        times.append((time.perf_counter(), answer.count(b"reasoning_content")))
    sock.close()
    counts = [count for _, count in times]
    assert counts[-1] >= 6
    assert len({count for count in counts if 0 < count < counts[-1]}) >= 3, counts


def test_the_openai_sdk_runs_streams_and_calls_tools(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        assert "mock:mrsa-16k" in [model.id for model in client.models.list()]
        make = client.chat.completions.create
        answer = make(model="mock", messages=QUESTION, seed=2, extra_body={"ttc": SMALL})
        assert answer.ttc["calls"] == 8
        told = list(
            make(model="mock", messages=QUESTION, seed=2, stream=True, extra_body={"ttc": SMALL})
        )
        said = "".join(c.choices[0].delta.content or "" for c in told)
        assert said == answer.choices[0].message.content
        called = make(model="mock", messages=QUESTION, tools=TOOLS, extra_body={"ttc": SMALL})
        assert called.choices[0].message.tool_calls[0].function.name == "add"
        with pytest.raises(openai.BadRequestError, match="num_candidates"):
            make(model="mock", messages=QUESTION, extra_body={"ttc": {"num_candidates": 0}})


def test_a_run_is_seen_in_the_views_of_the_journal(served):
    served.run()
    run_id = served.run()["ttc"]["run_id"]
    listed = served.ask("/v1/ttc/runs?limit=1")[1]
    assert listed["has_more"]
    assert [run["id"] for run in listed["data"]] == [run_id]
    detail = served.ask(f"/v1/ttc/runs/{run_id}")[1]
    assert detail["run"]["state"] == "done"
    assert len(detail["candidates"]) == 8
    winner = detail["winner"]
    where = f"/v1/ttc/runs/{run_id}/candidates/{winner['stage']}/{winner['slot']}"
    found = served.ask(where)[1]
    assert found["answer"] == detail["run"]["answer"]
    assert found["prompt"][-1]["role"] == "user"
    for wrong in ("runs/none", f"runs/{run_id}/candidates/9/0", f"runs/{run_id}/candidates/a/0"):
        assert served.ask(f"/v1/ttc/{wrong}")[0] == 404


def test_the_events_of_a_run_are_replayed_and_go_on_where_a_client_stopped(served):
    run_id = served.run()["ttc"]["run_id"]
    raw = served.ask(f"/v1/ttc/runs/{run_id}/events")[1].decode()
    ids = [int(line[4:]) for line in raw.splitlines() if line.startswith("id: ")]
    kinds = [line[7:] for line in raw.splitlines() if line.startswith("event: ")]
    assert ids == sorted(set(ids))
    assert kinds[-1] == "done"
    assert kinds.count("stage") == 2
    middle = ids[len(ids) // 2]
    rest = served.ask(f"/v1/ttc/runs/{run_id}/events", headers={"Last-Event-ID": str(middle)})
    assert [int(line[4:]) for line in rest[1].decode().splitlines() if line[:4] == "id: "] == [
        i for i in ids if i > middle
    ]


def test_a_preview_bounds_the_run_and_expects_what_it_will_cost(served):
    body = {"model": "mock", "messages": QUESTION, "ttc": SMALL}
    served.gateway.lengths._traces.clear()  # other tests asked for shorter replies
    served.run()
    status, told, _ = served.ask("/v1/ttc/preview", body)
    assert status == 200
    answer = served.run()
    assert told["calls"] == answer["ttc"]["calls"] == 8
    assert told["decode_cap"] == answer["ttc"]["usage"]["cap"] == 4 * 4096 * 2
    assert told["arithmetic"] == "2 x 4 x 4,096 = 32,768"
    generated = answer["usage"]["completion_tokens"]
    assert abs(told["expected_decode"] - generated) <= 0.15 * generated
    presets = served.ask("/v1/ttc/presets")[1]["data"]
    assert next(p for p in presets if p["is_default"])["models"] == ["mock:mrsa-16k"]


@pytest.mark.parametrize("schedule", ["barrier", "async", "quorum"])
def test_a_preview_learns_from_runs_that_were_cut(tmp_path, schedule):
    """Traces cut at their budget or by a quorum would have been longer."""
    law = MockConfig(
        ttft_s=0.0, token_s=0.0002, chunk_tokens=1, ids="vllm", length="lognormal:60:0.7"
    )
    ttc = {**SMALL, "num_candidates": 16, "budget_tokens": 60, "schedule": schedule}
    ttc |= {"final_budget_tokens": 400, "tail_tokens": 8}
    body = {"model": "mock", "messages": QUESTION, "ttc": ttc}
    with upstream(law) as mock, gatewaying(mock, tmp_path / "j.sqlite") as gateway:
        for seed in range(8):  # 256 traces: the mean of so many is known to 5 percent
            gateway.run(ttc=ttc, seed=seed)
        told = gateway.ask("/v1/ttc/preview", body)[1]["expected_decode"]
        used = [
            gateway.run(ttc=ttc, seed=seed)["usage"]["completion_tokens"] for seed in range(9, 17)
        ]
        assert abs(told - sum(used) / 8) <= 0.15 * sum(used) / 8


def test_max_tokens_bounds_every_candidate_that_may_be_the_answer(served):
    ttc = {"strategy": "adaptive_consistency", "num_candidates": 8}
    before = num_seen(served)
    answer = served.run(ttc=ttc, max_tokens=5)
    assert {body["max_tokens"] for body in since(served, before)} == {5}
    assert answer["ttc"]["usage"]["cap"] == 8 * 5


def test_an_answer_of_an_earlier_stage_stops_where_the_client_wishes(served):
    """Only the calls of the last stage are told the strings; here the first stage answers."""
    ttc = {**SMALL, "consensus": 0.5}
    whole = served.run(ttc=ttc, seed=3)
    text = whole["choices"][0]["message"]["content"]
    assert whole["ttc"]["winner"]["stage"] == 0
    stop = text[len(text) // 2 :][:3]
    cut = served.run(ttc=ttc, seed=3, stop=[stop, "never"])
    assert cut["choices"][0]["message"]["content"] == text[: text.index(stop)]
    uncut = served.run(ttc=ttc, seed=3, stop=[f"{text[-1]}zzz"])
    assert uncut["choices"][0]["message"]["content"] == text
    chunks, _ = served.stream(ttc=ttc, seed=3, stop=stop)
    told = [c["delta"].get("content") or "" for k in chunks for c in k["choices"]]
    assert "".join(told) == text[: text.index(stop)]


def test_the_arguments_of_a_call_keep_their_types(served):
    """Optional numbers, as pydantic describes them."""
    maybe = {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 5}, {"type": "null"}]}
    either = {"type": ["string", "null"], "minLength": 1}
    parameters = {"type": "object", "properties": {"n": maybe, "s": either, "t": {"const": True}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    answer = served.run(tools=tools, tool_choice="required")
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    told = json.loads(call["function"]["arguments"])
    assert (told["n"], told["t"], type(told["s"])) == (5, True, str)


def test_cancel_ends_a_run_and_all_of_its_calls(slow):
    sock = slow.begin(stream=True)
    wait_for(lambda: slow.mock.records.in_flight == 4)
    answer = b""
    while b": run " not in answer:
        answer += sock.recv(65536)
    run_id = answer.partition(b": run ")[2].split()[0].decode()
    status, body, _ = slow.ask(f"/v1/ttc/runs/{run_id}/cancel", {})
    assert (status, body["cancelled"]) == (200, True)
    wait_for(lambda: slow.mock.records.in_flight == 0)
    while data := sock.recv(65536):
        answer += data
    sock.close()
    assert b'"code":"cancelled"' in answer
    assert b"[DONE]" not in answer
    assert slow.ask(f"/v1/ttc/runs/{run_id}")[1]["run"]["state"] == "cancelled"
    assert slow.ask(f"/v1/ttc/runs/{run_id}/cancel", {})[1]["cancelled"] is False


def test_a_stream_without_news_sends_comments(slow):
    sock = slow.begin(stream=True, ttc={**SMALL, "progress": "none"})
    answer = b""
    while answer.count(b": still here") < 2:
        answer += sock.recv(65536)
    sock.close()
    wait_for(lambda: slow.mock.records.in_flight == 0)


def test_no_answer_is_made_of_a_damaged_record(mock, tmp_path):
    """A gateway that does not know the run reads it: what a damaged row held is no answer."""
    path, headers = tmp_path / "j.sqlite", {"Idempotency-Key": "k"}
    with gatewaying(mock, path) as first:
        run_id = first.run(headers=headers)["ttc"]["run_id"]
    body = {"model": "mock", "messages": QUESTION, "ttc": SMALL}
    for column in ("content", "body"):
        with sqlite3.connect(path) as file:
            where = "content IS NOT NULL AND run = ?"
            file.execute(f"UPDATE told SET {column} = {column} || '!' WHERE {where}", (run_id,))
        file.close()
        with gatewaying(mock, path) as second:
            status, told, _ = second.ask(CHAT, body, headers=headers)
            assert (status, told["error"]["code"]) == (503, "journal_failed")
            assert f"row {run_id}/" in told["error"]["message"]
            status, told, _ = second.ask(f"/v1/ttc/runs/{run_id}")
            assert (status, bool(told["damage"])) == (200, column == "body")
