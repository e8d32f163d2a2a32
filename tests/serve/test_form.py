"""Answers that must have a form: by the bundled nano model, which knows nothing of JSON."""

import json
import re
from collections.abc import Iterator, Mapping
from threading import Thread
from typing import Any, Literal

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from serve.conftest import QUESTION, Running, serving

from openzaya.serve import grammar

COLOR = {"type": "string", "enum": ["red", "dark blue", 'a"b', "</think>", "ü"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/color"}, "maxItems": 3},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "next": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["name", "count", "tags", "next"],
    "additionalProperties": False,
    "$defs": {"color": COLOR},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint a wall.",
            "parameters": {
                "type": "object",
                "properties": {
                    "note": {"type": "string", "minLength": 1, "maxLength": 6},
                    "color": COLOR,
                    "size": {"type": "integer", "minimum": -5, "maximum": 5},
                    "who": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
                    "more": {
                        "type": "object",
                        "properties": {"a": {"type": "string", "maxLength": 4}},
                        "additionalProperties": False,
                    },
                },
                "required": ["note", "color", "size", "who"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "wait"}},
]
PAINT = TOOLS[0]["function"]["parameters"]
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(context=4096) as running:
        yield running


def by(schema: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
    named = {"name": "it", "schema": schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


NUMBERS = ("minimum", "maximum")
BOUNDS = {
    "integer": NUMBERS,
    "number": NUMBERS,
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}


def complaint(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a value by the part of JSON Schema that these tests use."""
    if "$ref" in schema:
        return complaint(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        found = [complaint(value, option, root) for option in schema["anyOf"]]
        return None if None in found else str(found)
    if "enum" in schema and value not in schema["enum"]:
        return f"{value!r} is none of {schema['enum']}"
    kinds = {
        "object": dict, "array": list, "string": str, "null": type(None), "boolean": bool,
        "integer": int, "number": (int, float),
    }  # fmt: skip
    kind = schema.get("type")
    if kind and not isinstance(value, kinds[kind]):
        return f"{value!r} is no {kind}"
    if bounds := BOUNDS.get(kind):
        size = value if "minimum" in bounds else len(value)
        low, high = schema.get(bounds[0], size), schema.get(bounds[1], size)
        if not low <= size <= high:
            return f"{value!r} is too small or large"
    if kind == "array":
        return next((c for v in value if (c := complaint(v, schema.get("items", {}), root))), None)
    if kind == "object":
        known = schema.get("properties", {})
        missing = set(schema.get("required", ())) - set(value)
        unknown = set(value) - set(known) if schema.get("additionalProperties") is False else None
        if missing or unknown:
            return f"missing {missing}, unknown {unknown}"
        parts = ((value[name], known[name]) for name in value if name in known)
        return next((c for v, part in parts if (c := complaint(v, part, root))), None)
    return None


def finished(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of the choices that ended by themselves; there are some."""
    ended = [c["message"] for c in answer["choices"] if c["finish_reason"] != "length"]
    assert ended, answer
    return ended


def check_call(call: Mapping[str, Any]) -> None:
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "paint":
        assert complaint(arguments, PAINT, PAINT) is None
    else:
        assert (call["function"]["name"], arguments) == ("wait", {})


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
    fields = {**extra, **by({"enum": [quoted]}), "logit_bias": {"60": -100}}  # not "<"
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
    from openzaya.serve.form import form_of
    from openzaya.serve.schema import ChatRequest, reader

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


LEAVES = st.one_of(
    st.builds(
        lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
        st.integers(-300, 300),
        st.integers(-300, 300),
    ),
    st.integers(0, 4).map(lambda n: {"type": "string", "minLength": n, "maxLength": n + 2}),
    st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=4)),
        min_size=1,
        max_size=3,
    ).map(lambda values: {"enum": values}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, COLOR]),
)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=6
)


def _object(properties: dict[str, Any], required: set[int]) -> dict[str, Any]:
    names = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": [names[at] for at in required if at < len(names)],
        "additionalProperties": False,
    }


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda items, least: {
                "type": "array", "items": items, "minItems": least, "maxItems": least + 1,
            },
            inner,
            st.integers(0, 1),
        ),
        st.builds(
            _object,
            st.dictionaries(NAMES, inner, max_size=3),
            st.sets(st.integers(0, 2)),
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schema=SCHEMAS, seed=st.integers(0, 999), temperature=st.sampled_from([0, 1]))
def test_any_schema_is_kept(server: Running, schema: dict, seed: int, temperature: float):
    fields = {"max_tokens": 700, "seed": seed, "temperature": temperature, **NO_THOUGHT}
    choice = server.chat(**fields, **by(schema))["choices"][0]
    if choice["finish_reason"] != "length":
        value = json.loads(choice["message"]["content"])
        assert complaint(value, schema, schema) is None
    tool = {"name": "f", "parameters": _object({"first": schema, "second": COLOR}, {0})}
    choice = server.chat(
        **fields,
        tools=[{"type": "function", "function": tool}],
        tool_choice="required",
        parallel_tool_calls=False,
    )["choices"][0]
    if choice["finish_reason"] != "length":
        arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
        assert complaint(arguments, tool["parameters"], tool["parameters"]) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (by({"type": "text"}), "Invalid type"),
        (by({"type": "string", "pattern": "("}), "unclosed group"),
        (by({"$ref": "http://127.0.0.1/x"}), "not present"),
        (by({"$ref": "#"}), "nothing satisfies"),
        (by({"not": {"type": "string"}}), "not"),
        (by({"type": "integer", "minimum": 3, "maximum": 2}), "minimum"),
        (by({"enum": []}, strict=False), "empty"),
        (by({"properties": [1]}), "object"),
        (by({"type": "string", "maxLength": -1}), ""),
        (by({"enum": ["x" * 70_000]}), "64 KiB"),
    ],
)
def test_schemas_that_cannot_be_kept(server: Running, fields: dict, said: str):
    body = {"model": "nano", "messages": QUESTION, **fields}
    status, answer, _ = server.ask("/v1/chat/completions", body)
    assert status == 400
    assert said in answer["error"]["message"]
    assert re.match("response_format", answer["error"]["param"])
    assert "%json" not in answer["error"]["message"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a>": {"type": "string"}}},
        {"properties": {"a\nb": {"type": "string"}}},
        {"properties": {"a": {"type": "string", "minLength": "0}/ start: X"}}},
        {"properties": {"a": {"type": "string", "maxLength": -1}}},
        {"properties": {"a": {"type": "string", "enum": []}}},
        {"properties": {"a": {"type": "strings"}}},
        {"required": [{}]},
        {"required": "a"},
    ],
)
def test_tools_that_no_call_can_be_made_of(server: Running, parameters: dict):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"model": "nano", "messages": QUESTION, "tools": [tool], "tool_choice": "required"}
    status, answer, _ = server.ask("/v1/chat/completions", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_a_strict_function_loses_no_keyword(server: Running):
    for extra in ({"minProperties": 1}, {"properties": {"a": {"type": "string", "pattern": "x"}}}):
        function = {"name": "f", "strict": True, "parameters": {"type": "object", **extra}}
        body = {
            "model": "nano",
            "messages": QUESTION,
            "tools": [{"type": "function", "function": function}],
        }
        status, answer, _ = server.ask("/v1/chat/completions", body)
        assert (status, answer["error"]["param"]) == (400, "tools")
        function["strict"] = False
        assert server.ask("/v1/chat/completions", {**body, "max_tokens": 1})[0] == 200


def test_a_form_that_breaks_on_the_way_is_no_answer(server: Running):
    """Nothing satisfies the item, which only shows once the list has begun."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1}},
        "required": ["a"],
        "$defs": {"x": {"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1}},
    }
    body = {"model": "nano", "messages": QUESTION, "max_tokens": 300, **NO_THOUGHT, **by(schema)}
    status, answer, _ = server.ask("/v1/chat/completions", body)
    assert status in (200, 400)
    assert status == 400 or answer["choices"][0]["finish_reason"] == "length"
    assert server.chat(max_tokens=2)


def test_without_the_library_a_form_is_refused_by_name(server: Running, monkeypatch):
    monkeypatch.setattr(grammar, "find_spec", lambda name: None)
    for fields in (by(SCHEMA), {"tools": TOOLS, "tool_choice": "required"}):
        body = {"model": "nano", "messages": QUESTION, **fields}
        status, answer, _ = server.ask("/v1/chat/completions", body)
        assert status == 400
        assert "openzaya[grammar]" in answer["error"]["message"]
    assert server.chat(max_tokens=2, tools=TOOLS)


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
