"""The openai SDK, and a client that sends what LiteLLM sends."""

import http.client
import json
from urllib.parse import urlsplit

import openai
import pytest

QUESTION = [{"role": "user", "content": "How many? [key: 42]"}]
SMALL = {"num_candidates": 5, "tails_per_prompt": 2, "rounds": 1, "budget_tokens": 600}
SMALL["tail_tokens"] = 80
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def client(gateway_url):
    with openai.OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0) as client:
        yield client


# The openai SDK


def test_the_sdk_lists_every_model_and_its_presets(client):
    names = {model.id for model in client.models.list()}
    assert {"mock", "mock:mrsa-16k", "mock:mrsa-light"} <= names


def test_the_sdk_gets_a_run_by_a_field_and_pays_for_all_of_it(client):
    reply = client.chat.completions.create(
        model="mock", messages=QUESTION, seed=3, extra_body={"ttc": SMALL}
    )
    assert reply.choices[0].message.content == "The answer is \\boxed{42}."
    assert reply.choices[0].finish_reason == "stop"
    told = reply.ttc
    assert (told["stages"], told["calls"], told["degraded"]) == (2, 10, False)
    assert reply.usage.completion_tokens == told["usage"]["generated"] == 10 * 256
    assert sum(told["answers"][-1].values()) == 5


def test_the_sdk_gets_a_run_by_the_name_of_the_model(client):
    reply = client.chat.completions.create(model="mock:mrsa-light", messages=QUESTION, seed=3)
    assert reply.choices[0].message.content == "The answer is \\boxed{42}."
    assert reply.ttc["calls"] == 48
    assert reply.model == "mock:mrsa-light"


def test_the_sdk_streams_a_run_and_its_usage(client):
    stream = client.chat.completions.create(
        model="mock",
        messages=QUESTION,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ttc": SMALL},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "The answer is \\boxed{42}."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 10 * 256


def test_the_same_seed_gives_the_same_answer_and_n_choices_come_from_one_run(client):
    asked = {"model": "mock", "messages": QUESTION, "seed": 5, "n": 3}
    first, again = (
        client.chat.completions.create(**asked, extra_body={"ttc": SMALL}) for _ in range(2)
    )
    assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert first.ttc["calls"] == 10


@pytest.mark.parametrize("streams", [False, True])
def test_the_sdk_is_passed_through_with_fields_that_we_do_not_know(client, streams):
    got = client.chat.completions.create(
        model="mock",
        messages=QUESTION,
        seed=3,
        stream=streams,
        extra_body={"return_token_ids": True, "ttc": False},
    )
    choices = [c for chunk in got for c in chunk.choices] if streams else got.choices
    ids = [token for c in choices for token in (getattr(c, "token_ids", None) or [])]
    assert len(ids) == 256


def test_the_sdk_gets_tool_calls_of_a_run(client):
    reply = client.chat.completions.create(
        model="mock", messages=QUESTION, seed=3, tools=[TOOL], extra_body={"ttc": SMALL}
    )
    call = reply.choices[0].message.tool_calls[0]
    assert reply.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "note"
    assert set(json.loads(call.function.arguments)) == {"x"}


def test_the_sdk_gets_json_of_a_run(client):
    reply = client.chat.completions.create(
        model="mock",
        messages=QUESTION,
        seed=3,
        response_format={"type": "json_object"},
        extra_body={"ttc": SMALL},
    )
    assert json.loads(reply.choices[0].message.content) == {"answer": "42"}


def test_prose_of_an_earlier_stage_is_not_given_for_json_that_was_cut(client):
    reply = client.chat.completions.create(
        model="mock",
        messages=QUESTION,
        seed=3,
        max_tokens=4,
        response_format={"type": "json_object"},
        extra_body={"ttc": SMALL},
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.ttc["winner"]["stage"] == reply.ttc["stages"] - 1


def test_the_sdk_gets_errors_of_its_own_kinds(client):
    with pytest.raises(openai.NotFoundError, match="model"):
        client.chat.completions.create(model="nothing", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="num_candidates"):
        client.chat.completions.create(
            model="mock", messages=QUESTION, extra_body={"ttc": {"candidates": 4}}
        )
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(
            model="mock", messages=QUESTION, temperature=9, extra_body={"ttc": SMALL}
        )


# What LiteLLM sends for a server of kind `openai/`


LITELLM_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/Python 2.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Async": "false",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Read-Timeout": "600.0",
    "X-Stainless-Raw-Response": "true",
    "Authorization": "Bearer sk-anything",
}


@pytest.mark.parametrize("streams", [False, True])
def test_a_litellm_style_client_is_served(gateway_url, streams):
    body = {
        "model": "mock:mrsa-light",
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]},
        ],
        "temperature": 0.7,
        "max_tokens": 900,
        "user": "somebody",
        "stream": streams,
        **({"stream_options": {"include_usage": True}} if streams else {}),
    }
    connection = http.client.HTTPConnection(urlsplit(gateway_url).netloc, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), LITELLM_HEADERS)
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    assert response.status == 200, raw
    if streams:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        data = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ")]
        assert data[-1] == b"[DONE]"
        chunks = [json.loads(part) for part in data[:-1]]
        assert len({chunk["id"] for chunk in chunks}) == 1
        text = "".join(
            choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]
        )
        usage = chunks[-1]["usage"]
    else:
        reply = json.loads(raw)
        # LiteLLM refuses a reply without these.
        assert {"id", "object", "created", "model", "choices", "usage"} <= set(reply)
        text = reply["choices"][0]["message"]["content"]
        usage = reply["usage"]
    assert "\\boxed{" in text
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == 48 * 256
