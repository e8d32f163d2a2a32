"""LiteLLM itself against the gateway: whole answers, streams, reasoning, tools, errors.

It is no dependency of ours: pip install litellm. It runs in a process of its own, which looks
nowhere for prices.
"""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None, reason="needs LiteLLM: pip install litellm"
    ),
]
CALL = """
import json, sys
import litellm

asked = json.load(sys.stdin)
try:
    reply = litellm.completion(**asked, num_retries=0)
    told = [chunk.model_dump() for chunk in reply] if asked.get("stream") else reply.model_dump()
except litellm.exceptions.APIError as error:
    told = {"status": error.status_code, "error": str(error)}
except litellm.exceptions.BadRequestError as error:
    told = {"status": error.status_code, "error": str(error)}
print("LITELLM" + json.dumps(told, default=str))
"""
TTC = {"num_candidates": 5, "tails_per_prompt": 2, "rounds": 1, "budget_tokens": 600}
TTC["tail_tokens"] = 80
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    },
}


def complete(url: str, **fields: Any) -> Any:
    """Return what LiteLLM makes of the gateway's answer."""
    asked = {
        "model": "openai/mock",
        "messages": [{"role": "user", "content": "How many? [key: 42]"}],
        "api_base": f"{url}/v1",
        "api_key": "none",
        "seed": 3,
        "extra_body": {"ttc": TTC},
        **fields,
    }
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        input=json.dumps(asked),
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("LITELLM")[2])


def test_a_whole_answer_has_reasoning_content_and_the_bill(gateway_url):
    reply = complete(gateway_url)
    message = reply["choices"][0]["message"]
    assert message["content"] == "The answer is \\boxed{42}."
    assert message["reasoning_content"]
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 10 * 256


def test_a_stream_brings_the_same_text_reasoning_and_usage(gateway_url):
    whole = complete(gateway_url)
    chunks = complete(gateway_url, stream=True, stream_options={"include_usage": True})
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    for name in ("content", "reasoning_content"):
        text = "".join(delta.get(name) or "" for delta in deltas)
        assert text == whole["choices"][0]["message"][name]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usages[-1]["completion_tokens"] == 10 * 256


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_is_called(gateway_url, streams):
    told = complete(gateway_url, tools=[TOOL], stream=streams)
    choices = [c for chunk in told for c in chunk["choices"]] if streams else told["choices"]
    found = [c["delta" if streams else "message"].get("tool_calls") for c in choices]
    call = next(calls for calls in found if calls)[0]["function"]
    assert call["name"] == "note"
    assert set(json.loads(call["arguments"])) == {"x"}
    assert [c["finish_reason"] for c in choices][-1] == "tool_calls"


def test_a_refusal_is_an_error_of_its_own_kind_with_our_words(gateway_url):
    told = complete(gateway_url, extra_body={"ttc": {"num_candidates": 0}})
    assert told["status"] == 400
    assert "num_candidates" in told["error"]
