"""Every field that the openai package can send: honoured, a hint, or refused; null is nothing."""

import re
from pathlib import Path

import openai
import pytest
from openai.types import completion_create_params as plain
from openai.types.chat import completion_create_params as chat

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "gateway.md"
CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "sort qdkax"}]
ASKED = {"model": "nano", "messages": QUESTION, "temperature": 0}
FIELDS = sorted(chat.CompletionCreateParamsStreaming.__annotations__)
HINTS = [
    {"safety_identifier": "user-7"},
    {"user": "user-7"},
    {"metadata": {"a": "b"}},
    {"prompt_cache_key": "key"},
    {"prompt_cache_retention": "24h"},
    {"prompt_cache_retention": "in_memory"},
    {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}},
    {"prediction": {"type": "content", "content": "adkqx"}},
    {"service_tier": "flex"},
    {"service_tier": "priority"},
    {"store": False},
    {"verbosity": "medium"},
    {"modalities": ["text"]},
    {"reasoning_effort": "medium"},
    {"reasoning_effort": "high"},
]
REFUSED = [
    {"store": True},
    {"verbosity": "low"},
    {"verbosity": "high"},
    {"modalities": ["text", "audio"]},
    {"modalities": []},
    {"audio": {"format": "wav", "voice": "alloy"}},
    {"moderation": {"model": "m"}},
    {"web_search_options": {}},
    {"functions": [{"name": "f"}]},
    {"function_call": "none"},
    {"reasoning_effort": "extreme"},
    {"service_tier": "turbo"},
    {"prompt_cache_retention": "7d"},
]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def asked(client, **fields):
    return client.chat.completions.create(**{**ASKED, **fields})


def said(answer):
    message = answer.choices[0].message
    return message.content, getattr(message, "reasoning_content", None), answer.usage


@pytest.mark.parametrize("fields", HINTS, ids=str)
def test_a_hint_changes_nothing(client, fields):
    assert said(asked(client, **fields)) == said(asked(client))


@pytest.mark.parametrize("fields", REFUSED, ids=str)
def test_what_would_change_the_answer_is_refused_by_name(client, fields):
    with pytest.raises(openai.BadRequestError) as refused:
        asked(client, **fields)
    assert refused.value.param.split(".")[0] == next(iter(fields))


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"model", "messages"}))
def test_null_means_that_a_field_is_not_given(server, name):
    assert server.ask(CHAT, {**ASKED, name: None})[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": None}},
        {"chat_template_kwargs": {"enable_thinking": None}},
        {
            "ttc": {
                "preset": "nano",
                "progress": None,
                "usage": None,
                "hint": None,
                "background": None,
            }
        },
    ],
    ids=str,
)
def test_null_inside_of_a_field_means_the_same(server, body):
    assert server.ask(CHAT, {**ASKED, **body})[0] == 200


def test_null_in_plain_completions(server):
    names = set(plain.CompletionCreateParamsStreaming.__annotations__) - {"model", "prompt"}
    body = {"model": "nano", "prompt": "a", "max_tokens": 2}
    nothing = dict.fromkeys(sorted(names - {"max_tokens"}))
    assert server.ask("/v1/completions", {**body, **nothing, "parse_special": None})[0] == 200
    assert server.ask("/v1/completions", {**body, "best_of": 1})[0] == 200


def test_no_effort_is_no_thought(client, server):
    content, reasoning, usage = said(asked(client, reasoning_effort="none"))
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert (content, reasoning, usage) == said(asked(client, extra_body=off))
    assert reasoning is None
    assert said(asked(client))[1]


@pytest.mark.parametrize("effort", ["minimal", "low"])
def test_low_effort_ends_the_thought_early(client, monkeypatch, effort):
    monkeypatch.setattr("openzaya.serve.openai_fields.LOW_EFFORT_TOKENS", 3)
    low = said(asked(client, reasoning_effort=effort))
    assert low == said(asked(client, extra_body={"thinking_token_budget": 3}))
    assert low != said(asked(client))


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
        {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "low", "thinking_token_budget": 7},
        {"stream": True, "stream_options": {"include_obfuscation": True}},
    ],
    ids=str,
)
def test_wishes_that_cannot_hold_are_refused(server, fields):
    status, body, _ = server.ask(CHAT, {**ASKED, **fields})
    assert status == 400, body


@pytest.mark.parametrize(
    ("effort", "same"),
    [
        ("none", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("low", {"thinking_token_budget": 3}),
        ("high", {}),
    ],
)
def test_effort_holds_in_runs(server, monkeypatch, effort, same):
    monkeypatch.setattr("openzaya.serve.openai_fields.LOW_EFFORT_TOKENS", 3)
    body = {**ASKED, "ttc": {"num_candidates": 2, "rounds": 0, "budget_tokens": 200}, "seed": 1}
    told = [
        server.ask(CHAT, {**body, **fields})[1]["choices"]
        for fields in ({"reasoning_effort": effort}, same, {})
    ]
    assert told[0] == told[1]
    assert (told[0] == told[2]) == (effort == "high")


def test_the_guide_names_every_field_of_the_package():
    named = set(re.findall(r"`([a-z_]+)`", GUIDE.read_text()))
    assert set(FIELDS) - named == set()
