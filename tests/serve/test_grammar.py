"""Schemas and tools as grammars: any of them, those that are refused, and walks at random."""

import json
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve.conftest import QUESTION, Running, serving
from serve.forms import COLOR, NO_THOUGHT, SCHEMA, TOOLS, by, check_call, complaint

from openzaya.cli.samplers import model_folder
from openzaya.engine.request import TokenEvent
from openzaya.serve import grammar
from openzaya.serve.chat import schemas_of
from openzaya.serve.form import form_of, tools_of
from openzaya.serve.reply import Reply, ReplyRules
from openzaya.serve.schema import ChatRequest, reader
from openzaya.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(context=4096) as running:
        yield running


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


CHAIN = {
    **{str(n): {"type": "array", "items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(1000)},
    "1000": {"type": "string"},
}
"""It would overrun the stack of whatever compiles it."""


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
        (by({"$ref": "#/$defs/0", "$defs": CHAIN}), "too complex"),
        (by({"type": "integer", "multipleOf": 10**7 + 19}), "too complex"),
        (by({"allOf": [{"type": "string", "pattern": f"[ab]{{{n},}}"} for n in range(40)]}), "too"),
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


def test_a_reply_that_could_not_keep_its_form_is_no_answer(server: Running, script):
    """As of a grammar that gets too ambiguous on the way; here words are forced into it."""
    script("</think>\n\n{well", end=False)
    body = {"model": "nano", "messages": QUESTION, "max_tokens": 300, **by(SCHEMA)}
    status, answer, _ = server.ask("/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "form_not_kept")
    streamed = server.ask("/v1/chat/completions", {**body, "stream": True})[1].decode()
    assert "form_not_kept" in streamed
    assert "[DONE]" not in streamed


def test_without_the_library_a_form_is_refused_by_name(server: Running, monkeypatch):
    monkeypatch.setattr(grammar, "find_spec", lambda name: None)
    for fields in (by(SCHEMA), {"tools": TOOLS, "tool_choice": "required"}):
        body = {"model": "nano", "messages": QUESTION, **fields}
        status, answer, _ = server.ask("/v1/chat/completions", body)
        assert status == 400
        assert "openzaya[grammar]" in answer["error"]["message"]
    assert server.chat(max_tokens=2, tools=TOOLS)


@pytest.fixture(scope="module")
def with_tool_tokens() -> TextTokenizer:
    """A vocabulary like that of the full-size model: the markers of calls are tokens."""
    plain = TextTokenizer.load(model_folder("nano"))
    backend = plain._backend
    backend.add_special_tokens(["<zyphra_tool_call>", "</zyphra_tool_call>"])
    return TextTokenizer(backend)


def event(at: int, token: int, reason: Literal["stop"] | None) -> TokenEvent:
    return TokenEvent(
        request_id=0, index=at, token_id=token, logprob=0.0, version=0, top=(), finish_reason=reason
    )


def walk(tokenizer: TextTokenizer, fields: Mapping[str, Any], seed: int) -> Reply | None:
    """Return what a model writes that takes any allowed token; None for what gets too long."""
    ask = reader(ChatRequest)({"model": "nano", "messages": QUESTION, **fields})
    form = form_of(ask, tokenizer)
    stop = tokenizer.eos_id
    grammars = grammar.Grammars(tokenizer, 384, (stop,))
    constraint = grammars.constrained(form, thinks=False)()
    rules = ReplyRules(
        stop_ids=(stop,), thinks=False, schemas=schemas_of(tools_of(ask)), has_form=True
    )
    reply, rng = Reply(tokenizer, rules), Random(seed)
    for at in range(3000):
        bits = constraint.shared.no_bits(1)
        constraint.fill([constraint], bits)
        allowed = np.flatnonzero(np.unpackbits(bits[0], bitorder="little")).tolist()
        token = rng.choice(allowed)
        reason = "stop" if token == stop else None
        reply.feed(event(at, token, reason))
        if reply.is_done:
            return reply
        constraint.accept(token)
        assert not constraint.owner.failure
    return None


@pytest.mark.parametrize("seed", range(12))
def test_any_walk_through_a_grammar_gives_calls_and_values(with_tool_tokens, seed):
    """Tokens at random reach what a model would hardly write."""
    choices = ({"tool_choice": "required"}, {"parallel_tool_calls": False}, by(SCHEMA))
    for fields in choices:
        reply = walk(with_tool_tokens, {"tools": TOOLS, **fields}, seed)
        if reply is None:
            continue
        for call in reply.calls:
            check_call({"function": {"name": call.name, "arguments": call.arguments}})
        if "tool_choice" in fields:
            assert reply.calls
            assert not reply.content
        elif "response_format" in fields and not reply.calls:
            assert complaint(json.loads(reply.content), SCHEMA, SCHEMA) is None


def test_calls_begin_with_their_token_where_there_is_one(with_tool_tokens):
    ask = reader(ChatRequest)(
        {"model": "nano", "messages": QUESTION, "tools": TOOLS, "tool_choice": "required"}
    )
    grammars = grammar.Grammars(with_tool_tokens, 384, (2,))
    constraint = grammars.constrained(form_of(ask, with_tool_tokens), thinks=False)()
    bits = constraint.shared.no_bits(1)
    constraint.fill([constraint], bits)
    allowed = np.flatnonzero(np.unpackbits(bits[0], bitorder="little")).tolist()
    texts = {with_tool_tokens.token_bytes(token) for token in allowed}
    assert texts == {b"\n", b"<zyphra_tool_call>"}
