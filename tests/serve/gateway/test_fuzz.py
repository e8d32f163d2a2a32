"""Broken bodies, and bodies that a grammar makes: no answer is a 5xx of ours."""

import http.client
import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from serve.gateway.conftest import CHAT, QUESTION

SCRAPS = (
    b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"NaN", b"1e999", b"-0",
    b"9" * 30, b"\\ud800", b"\\u0000", b"\xff", b"\xef\xbb\xbf", b"<|im_end|>", b"[" * 500,
    b'{"a":' * 500, b'"ttc": false,', b'"model": "mock",', b'{"type": "image_url"}',
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, 1e300, 2**53, "", "x", "mrsa-16k", "\u0000", "\U0001f642",
    [], [[]], {}, {"a": {"b": [1]}}, ["x"] * 5, {"type": "function"}, {"type": "json_schema"},
    {"preset": "light"}, {"type": "text", "text": "x"},
)  # fmt: skip
TOP = (
    "model", "messages", "ttc", "n", "stream", "stop", "seed", "temperature", "top_p", "max_tokens",
    "max_completion_tokens", "tools", "tool_choice", "response_format", "logit_bias", "priority",
    "stream_options", "logprobs", "top_logprobs", "user", "metadata", "novel", "chat_template",
    "chat_template_kwargs", "thinking_token_budget", "reasoning_effort",
)  # fmt: skip
OF_TTC = (
    "preset", "strategy", "num_candidates", "rounds", "budget_tokens", "tail_tokens",
    "tails_per_prompt", "final_budget_tokens", "final_candidates", "widths", "aggregate",
    "schedule", "quorum", "consensus", "select", "chain", "max_total_tokens", "temperature",
    "progress", "usage", "hint", "background", "reproduce", "novel", "subset", "order",
)  # fmt: skip
OF_MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "name", "novel")
WORDS = ("light", "nano", "rsa", "pacore", "async", "barrier", "majority", "final", "user", "tool")
TINY = {"num_candidates": 2, "rounds": 0, "budget_tokens": 2}
PATHS = (CHAT, CHAT, CHAT, "/v1/ttc/preview", "/v1/completions")


def value(rng: Random, depth: int = 0) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return rng.choice((-1, 0, 1, 2, 3, 17, 65, 257, 2**31, 2**62))
    if kind == 2 and depth < 3:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 3 and depth < 3:
        return {rng.choice(TOP + OF_TTC): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return rng.choice(ODD)


def made(rng: Random) -> bytes:
    """A body that looks like a request, with a few fields that do not."""
    body: dict[str, Any] = {"model": "mock", "messages": QUESTION, "ttc": TINY, "max_tokens": 2}
    for _ in range(rng.randrange(1, 4)):
        where = rng.randrange(3)
        if where == 0:
            body[rng.choice(TOP)] = value(rng)
        elif where == 1:
            body["ttc"] = {**TINY, rng.choice(OF_TTC): value(rng)}
        else:
            turn = {"role": "user", "content": "x", rng.choice(OF_MESSAGE): value(rng)}
            body["messages"] = [turn, *QUESTION][:: rng.choice((1, -1))]
    return json.dumps(body).encode()


def broken(rng: Random) -> bytes:
    """A sound body with a few cuts and scraps."""
    body = bytearray(made(rng))
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(body) + 1)
        end = min(len(body), start + rng.choice((0, 0, 1, 3, 10)))
        body[start:end] = rng.choice(SCRAPS)
    return bytes(body)


def throw(port: int, count: int, seed: int) -> Counter[int]:
    """Send bodies over one connection; return how often each status came."""
    rng = Random(seed)
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        body = rng.choice((made, broken))(rng)
        connection.request("POST", rng.choice(PATHS), body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        statuses[response.status] += 1
        if response.status >= 400 and b"mock" not in answer:
            assert set(json.loads(answer)) == {"error"}, (body, answer)
        assert response.status < 500, (body, answer)
        assert b'"type":"server_error"' not in answer, (body, answer)
    connection.close()
    return statuses


def test_no_body_makes_the_gateway_fail(served):
    statuses = throw(served.port, 400, seed=1)
    assert statuses[200] >= 20
    assert statuses[400] >= 200


@pytest.mark.slow
def test_no_body_of_a_hundred_thousand_makes_the_gateway_fail(served):
    assert throw(served.port, 100_000, seed=2)[400] > 50_000
