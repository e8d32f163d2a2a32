"""The mock upstream: what it says, when, and each of its failures as a client sees it."""

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.backends.mock import MockConfig, MockUpstream, key_of
from openzaya.backends.mock.faults import FAULTS, FaultPlan
from openzaya.backends.mock.instances import instance
from openzaya.backends.mock.lengths import LengthLaw
from openzaya.backends.mock.slots import Slots
from openzaya.backends.mock.vocabulary import CORPUS_TOKENS, Filler, Segment, decode, encode
from openzaya.core.errors import ConfigError
from openzaya.core.records import Message
from openzaya.text.tails import aggregation_messages
from openzaya.text.think import split_thinking
from openzaya.ttc.compaction import is_looping
from openzaya.ttc.selection import extract_answer

FAST = {"ttft_s": 0.0}
QUESTION = "How many? [key: 42]"


def run(main):
    return asyncio.run(asyncio.wait_for(main, 60))


@asynccontextmanager
async def mocked(**settings):
    async with (
        MockUpstream(MockConfig(**{**FAST, **settings})) as mock,
        aiohttp.ClientSession(base_url=mock.url) as session,
    ):
        yield mock, session


def body(**more):
    return {"messages": [{"role": "user", "content": QUESTION}], "seed": 7, **more}


async def ask(session, **more):
    async with session.post("/v1/chat/completions", json=body(**more)) as response:
        return response.status, await response.json()


async def raw_stream(session, path="/v1/chat/completions", **more):
    """The bytes of a stream, and whether it ended as HTTP says."""
    got = b""
    async with session.post(path, json=body(stream=True, **more)) as response:
        try:
            async for part in response.content.iter_any():
                got += part
        except aiohttp.ClientPayloadError:
            return got, False
    return got, True


def events(raw: bytes):
    """The parsed events of a stream, read by the rules of server-sent events."""
    found, lines = [], []
    for line in raw.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data: "):
            lines.append(line[6:])
        elif not line and lines:
            if lines != [b"[DONE]"]:
                found.append(json.loads(b"\n".join(lines)))
            lines = []
    return found


def said(found, name):
    return "".join(c["delta"].get(name, "") for e in found for c in e["choices"])


# Tokens


@given(st.text())
@settings(max_examples=200)
def test_every_text_survives_its_tokens(text):
    assert decode(encode(text)) == text
    parts = Segment(text)
    cuts = sorted(Random(text).choices(range(parts.num_tokens + 1), k=3))
    marks = [0, *cuts, parts.num_tokens]
    pieces = [parts.text(a, b) for a, b in itertools.pairwise(marks)]
    assert "".join(pieces) == text


def test_filler_is_a_circle_of_tokens_whose_text_and_ids_agree():
    filler = Filler(CORPUS_TOKENS - 5, 40)
    for first, last in ((0, 40), (3, 9), (5, 6), (0, 5), (5, 40)):
        assert encode(filler.text(first, last)) == filler.ids(first, last)
        assert len(filler.ids(first, last)) == last - first
    assert filler.text(0, 12) + filler.text(12, 40) == filler.text(0, 40)
    assert not is_looping(Filler(0, 4000).text(0, 4000))


# Laws


def test_lengths_follow_their_laws():
    rng = Random(1)
    assert {LengthLaw.parse("fixed:9").draw(rng) for _ in range(5)} == {9}
    drawn = sorted(LengthLaw.parse("lognormal:400:0.6").draw(rng) for _ in range(4001))
    assert 380 < drawn[2000] < 420
    assert 680 < drawn[int(0.841 * 4001)] < 780
    slow = [LengthLaw.parse("straggler:100:0.05:8").draw(rng) for _ in range(4000)]
    assert set(slow) == {100, 800}
    assert 150 < slow.count(800) < 250


@pytest.mark.parametrize(
    "text", ["", "fixed", "fixed:0", "fixed:x", "lognormal:5", "straggler:5:2:3", "other:3"]
)
def test_a_law_that_is_none_is_refused_with_the_forms(text):
    with pytest.raises(ConfigError, match="lognormal:MEDIAN:SIGMA"):
        MockConfig(length=text)


def test_faults_come_by_probability_by_schedule_and_by_seed():
    plan = FaultPlan(["500=0.1", "cut=0.1", "hang@3,7", "429=0.5@2000-"], seed=1)
    drawn = [plan.draw(call) for call in range(1, 2000)]
    assert 150 < drawn.count("500") < 250
    assert 150 < drawn.count("cut") < 250
    assert drawn.count("hang") <= 2
    later = [plan.draw(call) for call in range(2000, 4000)]
    assert 900 < later.count("429") < 1100
    assert FaultPlan(["hang@3,7"], 0).draw(3) == FaultPlan(["hang@3,7"], 9).draw(7) == "hang"
    assert [FaultPlan(["500=0.3"], 1).draw(c) for c in range(50)] == [
        FaultPlan(["500=0.3"], 1).draw(c) for c in range(50)
    ]
    assert [FaultPlan(["500=0.3"], 1).draw(c) for c in range(50)] != [
        FaultPlan(["500=0.3"], 2).draw(c) for c in range(50)
    ]


@pytest.mark.parametrize("text", ["nonsense", "500=x", "500=2", "500@", "500@a-b", "500@3-x"])
def test_a_fault_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"choose one of|write NAME"):
        MockConfig(faults=(text,))


# Replies


def answers(config, messages, count=400):
    from openzaya.backends.mock.replies import Author, Prompt

    author = Author(config)
    request = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
    prompt = Prompt.of(request)
    replies = [author.replies({**request, "seed": s}, prompt, 1, None)[0] for s in range(count)]
    return [extract_answer(r.joined("content")) for r in replies]


def test_aggregation_prompts_are_answered_with_their_own_accuracy():
    config = MockConfig(accuracy=0.3, aggregation_accuracy=0.9, num_wrong=3)
    plain = (Message("user", "  What?\nHow many of them?  "),)
    key = key_of(plain[0].content)
    alone = answers(config, plain)
    assert 90 < alone.count(key) < 150
    assert len(set(alone)) == 4
    for tails in (["some tail"], ["one", "two\n\nthree", "four"]):
        assert 340 < answers(config, aggregation_messages(plain, tails)).count(key) < 380
    assert key_of("Say [key: x+1] please") == "x+1"


def test_the_same_seed_and_prompt_give_the_same_reply_and_others_do_not():
    async def main():
        async with mocked(length="lognormal:200:0.5") as (_, session):
            first = (await ask(session))[1]["choices"][0]["message"]
            again = (await ask(session))[1]["choices"][0]["message"]
            other = (await ask(session, seed=8))[1]["choices"][0]["message"]
            unseeded = [(await ask(session, seed=None))[1]["choices"] for _ in range(2)]
            return first, again, other, unseeded

    first, again, other, unseeded = run(main())
    assert first == again != other
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("reasoning", ["reasoning_content", "reasoning", "raw", "none"])
def test_a_stream_its_ids_its_usage_and_the_whole_reply_agree(reasoning):
    async def main():
        options = {"stream_options": {"include_usage": True}, "return_token_ids": True}
        async with mocked(reasoning=reasoning, ids="vllm", chunk_tokens=7) as (mock, session):
            raw, is_whole = await raw_stream(session, **options)
            status, whole = await ask(session, return_token_ids=True)
            assert (status, is_whole, raw.endswith(b"data: [DONE]\n\n")) == (200, True, True)
            text = "".join(
                said(events(raw), name) for name in ("reasoning", "reasoning_content", "content")
            )
            async with session.post("/tokenize", json={"prompt": text}) as response:
                ids = (await response.json())["tokens"]
            async with session.post("/detokenize", json={"tokens": ids[-9:]}) as response:
                tail = (await response.json())["prompt"]
            return events(raw), whole, ids, text, tail, mock.stats()

    found, whole, ids, text, tail, stats = run(main())
    choice = whole["choices"][0]
    for name in ("reasoning", "reasoning_content", "content"):
        assert said(found, name) == (choice["message"].get(name) or "")
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len(found[0]["choices"][0]["token_ids"]) == 1
    told = [i for event in found for c in event["choices"] for i in c.get("token_ids", [])]
    assert told == ids == choice["token_ids"]
    assert len(told) == found[-1]["usage"]["completion_tokens"] == 256
    assert whole["usage"]["completion_tokens"] == 256
    assert text.endswith(tail)
    assert len(tail) < len(text)
    assert (stats["finished"], stats["in_flight"], stats["completion_tokens"]) == (2, 0, 512)
    thought = split_thinking(text, started_in_think=False)
    assert bool(thought.reasoning) == (reasoning == "raw")
    assert (extract_answer(choice["message"]["content"]) or "").isdecimal()


def test_sglang_sends_ids_once_at_the_end_of_a_stream():
    async def main():
        async with mocked(ids="sglang", length="fixed:60") as (_, session):
            raw, _ = await raw_stream(session, return_output_ids_in_sglext=True)
            quiet, _ = await raw_stream(session)
            refused = await ask(session, stream=True, return_token_ids=True)
            whole = await ask(session, return_token_ids=True)
            return events(raw), events(quiet), whole[1], refused[0]

    found, quiet, whole, status = run(main())
    assert status == 400
    assert found[-1]["sglext"]["output_ids"] == whole["choices"][0]["response_token_ids"]
    assert "token_ids" not in found[0]["choices"][0]
    assert not any("sglext" in event for event in quiet)


def test_max_tokens_cuts_inside_the_thinking_and_a_stop_string_inside_the_answer():
    async def main():
        async with mocked() as (_, session):
            cut = (await ask(session, max_tokens=20))[1]
            stopped = (await ask(session, stop=["\\boxed"]))[1]
            return cut, stopped

    cut, stopped = run(main())
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["choices"][0]["message"]["content"] is None
    assert cut["usage"]["completion_tokens"] == 20
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["choices"][0]["message"]["content"] == "The answer is "


def test_several_choices_differ_and_carry_their_index():
    async def main():
        async with mocked(length="fixed:40") as (_, session):
            whole = (await ask(session, n=3))[1]
            raw, _ = await raw_stream(session, n=3)
            return whole["choices"], events(raw), whole["usage"]

    choices, found, usage = run(main())
    assert [c["index"] for c in choices] == [0, 1, 2]
    assert len({c["message"]["reasoning_content"] for c in choices}) == 3
    assert usage["completion_tokens"] == 120
    for choice in choices:
        mine = [c for e in found for c in e["choices"] if c["index"] == choice["index"]]
        text = "".join(c["delta"].get("reasoning_content", "") for c in mine)
        assert text == choice["message"]["reasoning_content"]
        assert mine[-1]["finish_reason"] == "stop"


SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"type": "integer", "minimum": 0},
        "how": {"enum": ["sure", "guess"]},
        "steps": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2},
    },
}


def test_tools_and_json_are_answered_in_their_form():
    tool = {"type": "function", "function": {"name": "note", "parameters": SCHEMA}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}

    async def main():
        async with mocked(accuracy=1.0) as (_, session):
            called = (await ask(session, tools=[tool]))[1]["choices"][0]
            raw, _ = await raw_stream(session, tools=[tool])
            unwilling = (await ask(session, tools=[tool], tool_choice="none"))[1]["choices"][0]
            formed = (await ask(session, response_format=form))[1]["choices"][0]
            free = (await ask(session, response_format={"type": "json_object"}))[1]["choices"][0]
            return called, events(raw), unwilling, formed, free

    called, found, unwilling, formed, free = run(main())
    assert called["finish_reason"] == "tool_calls"
    function = called["message"]["tool_calls"][0]["function"]
    assert function["name"] == "note"
    assert set(json.loads(function["arguments"])) == {"answer", "how", "steps"}
    streamed = [c["delta"]["tool_calls"] for e in found for c in e["choices"] if c["finish_reason"]]
    assert streamed[0][0]["function"] == function
    assert "tool_calls" not in unwilling["message"]
    value = json.loads(formed["message"]["content"])
    assert value["answer"] == 42
    assert value["how"] in ("sure", "guess")
    assert len(value["steps"]) == 2
    assert all(len(step) >= 3 for step in value["steps"])
    assert json.loads(free["message"]["content"]) == {"answer": "42"}


def test_an_instance_of_a_schema_that_refers_to_itself_for_ever_ends():
    schema: dict = {"type": "object", "properties": {}}
    schema["properties"]["inner"] = schema
    assert json.dumps(instance(schema, Random(0))).count("inner") == 17


# Refusals


def test_what_is_no_request_gets_an_error_and_the_connection_lives():
    async def main():
        async with mocked(context_tokens=100, api_key="k") as (mock, session):
            headers = {"Authorization": "Bearer k"}
            seen = []
            for sent in (
                {"data": b"{"},
                {"json": []},
                {"json": {"messages": []}},
                {"json": body(model="other")},
                {"json": body(max_tokens=99)},
                {"json": body(max_tokens=0)},
                {"json": body(n=0)},
            ):
                async with session.post(
                    "/v1/chat/completions", headers=headers, **sent
                ) as response:
                    seen.append((response.status, (await response.json())["error"]["message"]))
            assert (await ask(session))[0] == 401
            async with session.get("/nothing", headers=headers) as response:
                assert response.status == 404
            async with session.get("/v1/chat/completions", headers=headers) as response:
                assert response.status == 404
            assert mock.records.in_flight == 0
            return seen

    seen = run(main())
    assert {status for status, _ in seen} == {400}
    assert "maximum context length is 100 tokens" in seen[4][1]


# Time, slots, aborts


def test_time_passes_as_the_settings_say_and_can_be_scaled():
    async def main():
        laws = {"ttft_s": 10.0, "token_s": 1.0, "time_scale": 0.002, "length": "fixed:50"}
        async with mocked(**laws, batch_token_s=1.0, slots=2) as (mock, session):
            await asyncio.gather(*(raw_stream(session, seed=s) for s in range(4)), ask(session))
            return [r.ended_at - r.started_at for r in mock.records.log], mock.stats()

    seconds, stats = run(main())
    # Alone a call takes (10 + 50 * 1) * 0.002 s, beside another one (10 + 50 * 2) * 0.002 s.
    assert all(s >= 0.11 for s in seconds)
    assert max(seconds) >= 0.16
    assert (stats["peak_active"], stats["peak_queued"], stats["queued"]) == (2, 3, 0)


@pytest.mark.parametrize(
    ("law", "order"), [("none", [0, 1, 2, 3]), ("lower", [0, 3, 1, 2]), ("higher", [0, 2, 1, 3])]
)
def test_the_queue_knows_the_direction_of_priorities(law, order):
    started = []

    class Call:
        def __init__(self, number, priority):
            self.number, self.priority = number, priority

        def start(self):
            started.append(self.number)

    slots = Slots(1, law)
    arrivals = [slots.enter(Call(n, p)) for n, p in enumerate((0, 5, 9, 1, 7))]
    slots.give_up(arrivals[4])
    assert (started, slots.queued, slots.peak_queued) == ([0], 3, 4)
    for _ in range(4):
        slots.leave()
    assert started == order
    assert (slots.active, slots.queued) == (0, 0)


def test_clients_that_leave_are_counted_with_the_time_and_free_their_slot():
    async def main():
        async with mocked(slots=2, token_s=30.0) as (mock, session):
            tasks = [asyncio.create_task(raw_stream(session, seed=s)) for s in range(5)]
            while mock.records.calls < 5:
                await asyncio.sleep(0.001)
            before = time.monotonic()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while mock.records.in_flight:
                await asyncio.sleep(0.001)
            return mock.stats(), before

    stats, before = run(main())
    assert (stats["aborted"], stats["finished"]) == (5, 0)
    assert (stats["active"], stats["queued"], stats["peak_active"]) == (0, 0, 2)
    assert sorted(a["call"] for a in stats["aborts"]) == [1, 2, 3, 4, 5]
    assert all(before <= a["at"] <= stats["now"] for a in stats["aborts"])


def test_a_client_that_does_not_read_stops_the_stream_until_it_does():
    async def main():
        # The system's buffers hold up to 4 MB for the sender; the stream has 7 MB.
        async with mocked(length="fixed:40000", chunk_tokens=1) as (mock, _):
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.connect(("127.0.0.1", mock._port))
            reader, writer = await asyncio.open_connection(sock=small, limit=1 << 12)
            sent = json.dumps(body(stream=True)).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b"
                % (len(sent), sent)
            )
            while not mock.records.log or not mock.records.log[0].num_tokens:
                await asyncio.sleep(0.001)
            sent_tokens = -1
            while sent_tokens < mock.records.log[0].num_tokens:
                sent_tokens = mock.records.log[0].num_tokens
                for _ in range(100):
                    await asyncio.sleep(0)
            assert sent_tokens < 40_000
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                got = got[-16:] + await reader.read(1 << 16)
            writer.close()
            return mock.records.log[0]

    assert run(main()).num_tokens == 40_000


# Failures


def test_refusals_by_status_say_when_to_come_back():
    async def main():
        async with mocked(faults=("429@1", "503@2", "500@3"), retry_after_s=1.2) as (_, session):
            seen = []
            for _ in range(4):
                async with session.post("/v1/chat/completions", json=body()) as response:
                    seen.append((response.status, response.headers.get("Retry-After")))
            return seen

    assert run(main()) == [(429, "2"), (503, None), (500, None), (200, None)]


def test_a_server_that_refuses_comes_back():
    async def main():
        async with mocked(faults=("refused@1",), refused_s=0.05) as (mock, session):
            with pytest.raises(aiohttp.ClientError):
                await ask(session)
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(session)
            while mock._listener is None:
                await asyncio.sleep(0.01)
            assert (await ask(session))[0] == 200
            return mock.stats()

    stats = run(main())
    assert (stats["calls"], stats["faulted"], stats["finished"]) == (2, 1, 1)


BROKEN = {
    "cut": b"}\n\n",
    "half_json": b'"del',
    "half_utf8": b"\xc3",
    "giant_line": b"xxxx",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_stream_ends_without_reason_and_without_done(fault):
    async def main():
        async with mocked(faults=(fault,), giant_line_bytes=9000) as (mock, session):
            raw, is_whole = await raw_stream(session)
            return raw, is_whole, mock.stats()

    raw, is_whole, stats = run(main())
    assert not is_whole
    assert raw.endswith(BROKEN[fault])
    assert b"[DONE]" not in raw
    assert not re.search(rb'"finish_reason": ?"', raw)
    assert (stats["faulted"], stats["aborted"], stats["completion_tokens"]) == (1, 0, 128)
    assert (len(raw.split(b"\n")[-1]) > 9000) == (fault == "giant_line")


@pytest.mark.parametrize("fault", ["cut", "half_json", "half_utf8", "wrong_schema"])
def test_a_broken_reply_without_streaming_is_no_reply(fault):
    async def main():
        async with (
            mocked(faults=(fault,)) as (_, session),
            session.post("/v1/chat/completions", json=body()) as response,
        ):
            return json.loads(await response.read())["choices"][0]["message"]

    with pytest.raises((aiohttp.ClientPayloadError, ValueError, KeyError, TypeError)):
        run(main())


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("fault", ["hang", "hang_mid", "drip"])
def test_a_call_that_hangs_waits_until_the_client_leaves(fault, streams):
    async def main():
        async with mocked(faults=(fault,), slots=1) as (mock, session):
            call = asyncio.create_task(raw_stream(session) if streams else ask(session))
            while not mock.records.in_flight:  # the time counts from when the mock has it
                await asyncio.sleep(0.001)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, 0.2)
            while mock.records.in_flight:
                await asyncio.sleep(0.001)
            return mock.records.log[0], mock.slots.active

    record, active = run(main())
    assert (record.state, record.fault, active) == ("aborted", fault, 0)
    expected = {"hang": 0, "hang_mid": 128, "drip": 1}
    assert record.num_tokens == (expected[fault] if streams else 0)


def test_faults_within_a_sound_stream_are_what_they_say():
    async def main():
        names = ["no_usage", "wrong_count", "wrong_model", "wrong_n", "content_filter", "empty"]
        names += ["loop", "crlf", "html", "wrong_schema"]
        specs = tuple(f"{name}@{number}" for number, name in enumerate(names, 1))
        options = {"stream_options": {"include_usage": True}, "max_tokens": 600}
        async with mocked(faults=specs) as (_, session):
            return {name: (await raw_stream(session, **options))[0] for name in names}

    raw = run(main())
    found = {name: events(data) for name, data in raw.items() if name != "html"}
    assert not any(event.get("usage") for event in found["no_usage"])
    assert found["wrong_count"][-1]["usage"]["completion_tokens"] == 3 * 256
    assert {e["model"] for e in found["wrong_model"]} == {"another-model"}
    assert {c["index"] for e in found["wrong_n"] for c in e["choices"]} == {0, 1}
    assert found["content_filter"][-2]["choices"][0]["finish_reason"] == "content_filter"
    assert [c["delta"] for e in found["empty"] for c in e["choices"]] == [{}]
    loop = said(found["loop"], "content")
    assert is_looping(loop)
    assert found["loop"][-1]["usage"]["completion_tokens"] == 600
    assert raw["crlf"].count(b"\r\ndata:") > raw["crlf"].count(b"\r\n\r\n")
    assert extract_answer(said(found["crlf"], "content"))
    assert raw["html"].startswith(b"<!DOCTYPE html>")
    assert found["wrong_schema"][-1]["choices"] == "none"
    assert raw["wrong_schema"].endswith(b"[DONE]\n\n")


def test_every_fault_has_a_test_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if f'"{name}' not in source] == []


def test_faults_can_be_changed_and_books_begun_while_it_runs():
    async def main():
        async with mocked(kept_requests=2) as (_, session):
            assert (await ask(session))[0] == 200
            async with session.post("/faults", json={"faults": ["500"]}) as response:
                assert response.status == 200
            assert [(await ask(session))[0] for _ in range(2)] == [500, 500]
            async with session.post("/faults", json={"faults": ["nonsense"]}) as response:
                assert response.status == 400
            async with session.get("/calls?after=1") as response:
                calls = await response.json()
            async with session.get("/requests") as response:
                requests = await response.json()
            async with session.post("/reset") as response:
                assert (await response.json()) == {"still_in_flight": 0}
            async with session.get("/stats") as response:
                return calls, requests, await response.json()

    calls, requests, stats = run(main())
    assert [(c["call"], c["seed"], c["state"], c["fault"]) for c in calls] == [
        (2, 7, "faulted", "500"),
        (3, 7, "faulted", "500"),
    ]
    assert [r["body"]["seed"] for r in requests] == [7, 7]
    assert stats["calls"] == 0


# HTTP


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_requests_may_come_in_pieces_in_chunks_and_several_at_once(size):
    sent = json.dumps(body(max_tokens=3)).encode()
    plain = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b"
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, sent[:5], len(sent) - 5, sent[5:])
    wire = plain % (len(sent), sent)
    wire += b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    wire += b"nonsense\r\n\r\n"

    async def main():
        async with mocked() as (mock, _):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", mock._port, family=socket.AF_INET
            )
            for start in range(0, len(wire), size):
                writer.write(wire[start : start + size])
                await asyncio.sleep(0)
            got = await reader.read()
            writer.close()
            return got, mock.records.calls

    got, calls = run(main())
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"200", b"400"]
    assert calls == 2


def test_the_openai_sdk_reads_it():
    import openai

    async def main():
        async with MockUpstream(MockConfig(accuracy=1.0, **FAST)) as mock:
            async with openai.AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="x") as client:
                stream = await client.chat.completions.create(
                    model="mock",
                    messages=[{"role": "user", "content": QUESTION}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
                chunks = [chunk async for chunk in stream]
                plain = await client.completions.create(model="mock", prompt="x", max_tokens=9)
            return chunks, plain

    chunks, plain = run(main())
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "The answer is \\boxed{42}."
    assert chunks[-1].usage.completion_tokens == 256
    assert plain.usage.completion_tokens == 9
    assert len(encode(plain.choices[0].text)) == 9


# The command


def command(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "openzaya.backends.mock", *words],
        env={**os.environ, "PYTHONPATH": "src"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_its_address_serves_and_ends_on_sigterm():
    child = command("--fault", "500@2", "--set", "model=a,b", "--length", "fixed:30")
    try:
        line = child.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line).group()

        async def main():
            async with aiohttp.ClientSession(base_url=url) as session:
                models = await (await session.get("/v1/models")).json()
                return models, [(await ask(session, model="b"))[0] for _ in range(2)]

        models, seen = run(main())
        assert [entry["id"] for entry in models["data"]] == ["a", "b"]
        assert seen == [200, 500]
    finally:
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (0, "")


def test_the_command_refuses_what_it_cannot_play_and_explains_itself():
    child = command("--fault", "nonsense")
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 2
    assert errors.startswith("error: the fault is 'nonsense'; choose one of refused,")
    child = command("--help")
    text, _ = child.communicate(timeout=20)
    assert all(name in text for name in (*FAULTS, "/stats", "batch_token_s", "[key: ...]"))
