"""Answers that must have a form: by the bundled nano model, which knows nothing of JSON."""

import json
from collections.abc import Iterator
from threading import Thread
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field
from serve.conftest import QUESTION, Running, serving
from serve.forms import NO_THOUGHT, SCHEMA, TOOLS, by, check_call, complaint, finished

from openzaya.serve.form import form_of
from openzaya.serve.schema import ChatRequest, reader


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(context=4096) as running:
        yield running


@pytest.mark.parametrize("temperature", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, NO_THOUGHT], ids=["thinking", "not"])
def test_json_keeps_its_schema(server: Running, temperature: float, options: dict):
    answer = server.chat(
        n=8, temperature=temperature, max_tokens=500, seed=1, **options, **by(SCHEMA)
    )
    for message in finished(answer):
        assert complaint(json.loads(message["content"]), SCHEMA, SCHEMA) is None
        assert bool(message.get("reasoning_content")) is not bool(options)


def test_any_object(server: Running):
    answer = server.chat(n=8, seed=2, max_tokens=300, response_format={"type": "json_object"})
    for message in finished(answer):
        assert isinstance(json.loads(message["content"]), dict)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("is_single", [True, False])
def test_calls_that_must_be_made(server: Running, temperature: float, is_single: bool):
    fields = {"tool_choice": "required", "parallel_tool_calls": not is_single, "tools": TOOLS}
    answer = server.chat(n=8, seed=3, temperature=temperature, max_tokens=600, **fields)
    for message in finished(answer):
        assert message["content"] is None
        assert len(message["tool_calls"]) == 1 or not is_single
        for call in message["tool_calls"]:
            check_call(call)


@pytest.mark.parametrize("name", ["paint", "wait"])
def test_the_named_tool_is_called_once(server: Running, name: str):
    choice = {"type": "function", "function": {"name": name}}
    answer = server.chat(n=4, seed=4, max_tokens=600, tools=TOOLS, tool_choice=choice)
    for message in finished(answer):
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == name
        check_call(call)


def test_text_may_come_before_calls_that_may_be_made(server: Running, script):
    """The beginning is forced, so that there is a call at all."""
    opening = (
        "x</think>\n\nLet us </see>.\n<zyphra_tool_call>\n<function=paint>\n<parameter=note>\n"
    )
    script(opening, end=False)
    answer = server.chat(n=4, seed=5, max_tokens=700, tools=TOOLS, parallel_tool_calls=False)
    for message in finished(answer):
        assert message["content"] == "Let us </see>."
        (call,) = message["tool_calls"]
        check_call(call)


def test_tools_and_a_schema_give_one_or_the_other(server: Running):
    kinds = set()
    for seed in range(3):
        answer = server.chat(
            n=8, seed=seed, max_tokens=600, tools=TOOLS, **NO_THOUGHT, **by(SCHEMA)
        )
        for message in finished(answer):
            if calls := message.get("tool_calls"):
                assert message["content"] is None
                for call in calls:
                    check_call(call)
            else:
                assert complaint(json.loads(message["content"]), SCHEMA, SCHEMA) is None
            kinds.add(bool(calls))
    assert kinds == {True, False}


def test_what_ends_a_block_may_stand_in_a_value(server: Running, script):
    note = "</parameter>\n.</zyphra_tool_call></function>"
    value = '{"a": "</parameter></zyphra_tool_call>"}'
    script(
        "</think>\n\n<zyphra_tool_call>\n<function=f>\n"
        f"<parameter=note>\n{note}\n</parameter>\n<parameter=more>\n{value}\n</parameter>\n"
        "<parameter=any>\n\n</parameter>\n</function>\n</zyphra_tool_call>"
    )
    text = {"type": "string"}
    function = {
        "name": "f",
        "parameters": {"properties": {"note": text, "more": {"type": "object"}, "any": text}},
    }
    tools = [{"type": "function", "function": function}]
    answer = server.chat(tools=tools, tool_choice="required", max_tokens=600)
    (call,) = finished(answer)[0]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {
        "note": note, "more": json.loads(value), "any": "",
    }  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {"tools": TOOLS}], ids=["plain", "tools"])
def test_markers_in_an_answer_are_text(server: Running, extra: dict):
    quoted = "</think><think>a</think>\n<zyphra_tool_call></zyphra_tool_call><|im_end|>"
    (call,) = server.service.codec.tokenizer.encode("<")
    fields = {**extra, **by({"enum": [quoted]}), "logit_bias": {str(call): -100}}
    message = finished(server.chat(**fields))[0]
    assert json.loads(message["content"]) == quoted
    assert "a</think>" not in message["reasoning_content"]


def test_a_cut_reply_is_a_beginning_that_the_grammar_accepts(server: Running):
    for limit in range(1, 60, 7):
        answer = server.chat(
            seed=limit, max_tokens=limit, return_token_ids=True, **NO_THOUGHT, **by(SCHEMA)
        )
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "length"
        matcher = server.service.grammars._kept.__wrapped__(_grammar_of(server, by(SCHEMA)))
        assert matcher.consume_tokens(choice["token_ids"])


def _grammar_of(server: Running, fields: dict[str, Any]) -> str:
    ask = reader(ChatRequest)({"model": "nano", "messages": QUESTION, **fields})
    return form_of(ask, server.service.codec.tokenizer).grammar


def test_a_thought_cannot_end_the_reply(server: Running):
    """Whatever the model wants: the answer comes behind the thought."""
    bias = {"2": 90, "264": 90, "4": -100, "265": -100}
    answer = server.chat(max_tokens=40, logit_bias=bias, **by(SCHEMA))
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "")
    budget = server.chat(max_tokens=300, logit_bias=bias, thinking_token_budget=9, **by(SCHEMA))
    (message,) = finished(budget)
    assert complaint(json.loads(message["content"]), SCHEMA, SCHEMA) is None
    assert budget["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 11


def test_a_turn_that_was_begun_goes_on(server: Running):
    begun = '{"name": "abc", "cou'
    turns = [*QUESTION, {"role": "assistant", "content": begun}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    answer = server.chat(messages=turns, n=4, max_tokens=300, **fields, **by(SCHEMA))
    for message in finished(answer):
        value = json.loads(begun + message["content"])
        assert value["name"] == "abc"
        assert complaint(value, SCHEMA, SCHEMA) is None
    turns[-1] = {"role": "assistant", "content": "Well"}
    body = {"model": "nano", "messages": turns, **fields, **by(SCHEMA)}
    status, error, _ = server.ask("/v1/chat/completions", body)
    assert (status, error["error"]["param"]) == (400, "messages")


def test_a_stream_says_what_a_whole_answer_says(server: Running):
    for fields in (by(SCHEMA), {"tools": TOOLS, "tool_choice": "required"}):
        asked = {"seed": 6, "max_tokens": 600, **fields}
        (whole,) = finished(server.chat(**asked))
        deltas = [chunk["choices"][0]["delta"] for chunk in server.chunks(**asked)]
        assert "".join(delta.get("content") or "" for delta in deltas) == (whole["content"] or "")
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [call["function"] for call in calls] == [
            call["function"] for call in whole.get("tool_calls", ())
        ]


def test_the_neighbours_of_a_formed_reply_are_as_ever(server: Running):
    alone = server.chat(seed=7, max_tokens=60, logprobs=True)["choices"][0]
    fields = {"n": 6, "max_tokens": 400, **by(SCHEMA)}
    thread = Thread(target=server.chat, kwargs=fields)
    thread.start()
    beside = server.chat(seed=7, max_tokens=60, logprobs=True)["choices"][0]
    thread.join()
    assert alone == beside


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["add", "drop"]
    amount: int = Field(ge=0, le=9)


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str = Field(max_length=6)
    steps: list[Step] = Field(max_length=2)
    done: bool | None


class Look(BaseModel):
    """Look something up."""

    model_config = ConfigDict(extra="forbid")
    word: str = Field(max_length=5)
    where: Step


def test_the_sdk_parses_answers_and_tools(server: Running):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        for seed in range(4):
            answer = client.chat.completions.parse(
                model="nano", messages=QUESTION, response_format=Plan, max_tokens=400, seed=seed
            )
            assert isinstance(answer.choices[0].message.parsed, Plan)
            called = client.chat.completions.parse(
                model="nano",
                messages=QUESTION,
                tools=[openai.pydantic_function_tool(Look)],
                tool_choice="required",
                parallel_tool_calls=False,
                max_tokens=400,
                seed=seed,
            )
            (call,) = called.choices[0].message.tool_calls
            assert isinstance(call.function.parsed_arguments, Look)


TTC = {"num_candidates": 3, "rounds": 1, "budget_tokens": 500, "tail_tokens": 20}


@pytest.mark.parametrize(
    "ttc",
    [
        TTC,
        {**TTC, "rounds": 0},
        {**TTC, "budget_tokens": 400, "answer_reserve_tokens": 394},
    ],
    ids=["aggregated", "sampled", "reserve"],
)
def test_the_answer_of_a_run_has_the_form(server: Running, ttc: dict):
    answer = server.chat(ttc=ttc, n=2, seed=1, **by(SCHEMA))
    for message in finished(answer):
        assert complaint(json.loads(message["content"]), SCHEMA, SCHEMA) is None
    stages = answer["ttc"]["answers"]
    votes = [vote for vote in stages[-1] if complaint(json.loads(vote), SCHEMA, SCHEMA) is None]
    assert len(stages) == 1 + ttc["rounds"]
    assert votes
    fields = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    for message in finished(server.chat(ttc=ttc, n=2, seed=2, **fields)):
        (call,) = message["tool_calls"]
        check_call(call)


def test_the_stages_before_the_last_are_free(server: Running):
    answer = server.chat(ttc=TTC, seed=1, **by(SCHEMA))
    run = answer["ttc"]["run_id"]
    texts = {
        stage: server.ask(f"/v1/ttc/runs/{run}/candidates/{stage}/0")[1]["answer_text"]
        for stage in (0, 1)
    }
    assert not texts[0].startswith("{")
    assert texts[1].startswith("{")


def test_a_run_with_a_form_that_cannot_be_kept_is_refused_before_any_work(server: Running):
    body = {"model": "nano", "messages": QUESTION, "ttc": TTC, **by({"not": {}})}
    status, answer, _ = server.ask("/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, "response_format")
