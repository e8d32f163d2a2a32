import asyncio
import socket
import ssl
import subprocess
import time
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise

import pytest
from backends.mock_openai import (
    DONE,
    Mock,
    chunk,
    drip,
    endless,
    event,
    first_events,
    keep_alive,
    raw,
    serve,
    silence,
    status,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.backends.chat_stream import Part
from openzaya.backends.http_server import Server
from openzaya.backends.openai_http import HttpConfig, OpenAISampler
from openzaya.backends.sse import MAX_LINE_BYTES, EventReader, StreamError
from openzaya.backends.tails_http import Ruler
from openzaya.core.errors import ConfigError, ContextLengthError, UpstreamError
from openzaya.core.records import Message, SampleRequest
from openzaya.text.think import split_thinking
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig

ASK = SampleRequest(messages=(Message("user", "question"),), max_tokens=50, seed=1 << 40 | 5)


class Naps:
    """Records what the sampler would have slept."""

    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def sample(mock: Mock, request=ASK, naps=None, **changes):
    """One call against the mock; the completion and the sampler."""

    async def main():
        async with serve(mock):
            config = HttpConfig(url=mock.url, **{"probe": False, **changes})
            async with OpenAISampler(config, sleep=naps or Naps()) as sampler:
                return await sampler.sample(request), sampler

    return asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("field_name", ["reasoning_content", "reasoning"])
def test_reasoning_and_content_are_joined_as_the_model_wrote_them(field_name):
    mock = Mock(field_name=field_name)
    completion, _ = sample(mock)
    thought = split_thinking(completion.text, completion.started_in_think)
    assert (thought.reasoning, thought.answer) == ("first second third", "the answer")
    assert (completion.num_tokens, completion.num_prompt_tokens) == (5, 7)
    assert completion.finish_reason == "stop"
    assert mock.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "question"}],
            "max_tokens": 50,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_a_cut_inside_thinking_is_a_normal_open_candidate():
    completion, _ = sample(Mock(), replace(ASK, max_tokens=2))
    assert completion.text == "first second"
    assert completion.finish_reason == "length"
    assert not split_thinking(completion.text, completion.started_in_think).closed


def test_a_server_without_a_reasoning_parser_sends_the_block_in_content():
    completion, _ = sample(Mock(reasoning="", content="<think> hm </think> seven"))
    thought = split_thinking(completion.text, completion.started_in_think)
    assert (thought.reasoning.strip(), thought.answer.strip()) == ("hm", "seven")


def test_a_server_that_tells_reasoning_apart_may_quote_markers_in_either():
    mock = Mock(reasoning="first </think> second", content="close it with </think> at last")

    async def main():
        async with serve(mock), OpenAISampler(HttpConfig(url=mock.url)) as sampler:
            both = await sampler.sample(ASK)
            mock.reasoning = ""
            return both, await sampler.sample(ASK)

    for completion, reasoning in zip(asyncio.run(main()), ("first  second", ""), strict=True):
        thought = split_thinking(completion.text, completion.started_in_think)
        assert (thought.reasoning, thought.answer) == (reasoning, mock.content)


@pytest.mark.parametrize(
    ("told", "kept"), [("length", "length"), ("content_filter", "error"), ("tool_calls", "stop")]
)
def test_empty_content_is_kept_with_its_reason(told, kept):
    completion, _ = sample(Mock(reasoning="", content="", finish=told))
    assert (completion.text, completion.finish_reason) == ("", kept)


HALF = event(chunk("tiny", content="half"))


def broken(*parts: bytes):
    """A stream that would look complete if its broken part went unnoticed."""
    return raw(*parts, event(chunk("tiny", "stop")), DONE)


CURABLE = {
    "http 500": status(500),
    "http 502": status(502),
    "http 503": status(503),
    "http 504": status(504),
    "http 429": status(429),
    "html page with 200": status(200, "<html>welcome</html>"),
    "cut without finish reason": first_events(3),
    "done without finish reason": first_events(3, DONE),
    "connection reset": first_events(2, reset=True),
    "half a json": raw(HALF, b'data: {"choices": [{"ind'),
    "not json": broken(HALF, b"data: {oops}\n\n"),
    "not an object": broken(b"data: [1]\n\n"),
    "two objects in a line": broken(HALF.strip() + HALF.removeprefix(b"data: ")),
    "a body that nobody can read": status(200, "x", Content_Encoding="gzip"),
    "http 524": status(524),
    "http 529": status(529),
    "no choices": broken(b'data: {"id": 1}\n\n'),
    "choices of the wrong kind": broken(b'data: {"choices": [7]}\n\n'),
    "another index": broken(b'data: {"choices": [{"index": 1, "delta": {"content": "x"}}]}\n\n'),
    "text of the wrong kind": broken(
        b'data: {"choices": [{"index": 0, "delta": {"content": 7}}]}\n\n'
    ),
    "deep nesting": broken(b"data: " + b"[" * 100_000 + b"\n\n"),
    "an error event": broken(
        HALF, b'data: {"error": {"message": "out of memory"}, "choices": []}\n\n'
    ),
    "not utf-8": broken(b"data: \xff\xfe\n\n"),
    "a giant line": raw(b"data: " + b"x" * (MAX_LINE_BYTES + 1)),
    "finish reason abort": raw(event(chunk("tiny", "abort", content="x")), DONE),
    "silence before the first byte": silence,
    "comments instead of tokens": keep_alive,
    "silence in mid-stream": first_events(2, hang=True),
    "drip": drip,
}
TIMERS = {
    # Only the silent faults wait for a timer: a loaded machine must not fail the others.
    "silence before the first byte": {"first_token_s": 1.0},
    "comments instead of tokens": {"first_token_s": 1.0},
    "silence in mid-stream": {"between_tokens_s": 1.0},
    "drip": {"between_tokens_s": 0.5, "slow_after_s": 1.0, "min_tokens_per_s": 1000.0},
}


@pytest.mark.parametrize("name", CURABLE)
def test_a_fault_is_never_taken_for_an_answer_and_tried_again_with_the_same_seed(name):
    mock, naps = Mock(faults=[CURABLE[name]]), Naps()
    completion, _ = sample(mock, naps=naps, **TIMERS.get(name, {}))
    assert split_thinking(completion.text).answer == "the answer"
    assert [body["seed"] for body in mock.bodies] == [5, 5]
    assert len(naps.seconds) == 1
    assert 0.25 <= naps.seconds[0] <= 0.75


@pytest.mark.parametrize("name", ["http 500", "html page with 200", "cut without finish reason"])
def test_retries_end_with_an_error_that_names_the_server_and_the_fault(name):
    mock, naps = Mock(faults=[CURABLE[name]] * 9), Naps()
    with pytest.raises(UpstreamError, match=r"http://127.*failed 4 times.*check") as caught:
        sample(mock, naps=naps)
    assert len(mock.bodies) == 4
    assert naps.seconds[0] * 1.2 < naps.seconds[2]
    expected = {"http 500": "HTTP 500", "html page with 200": "welcome"}.get(name, "cut before")
    assert expected in str(caught.value)


def test_a_long_error_page_is_clipped():
    with pytest.raises(UpstreamError) as caught:
        sample(Mock(faults=[status(500, "x" * 100_000)] * 4))
    assert len(str(caught.value)) < 600


def test_a_missing_done_after_the_finish_reason_loses_nothing():
    for fault in (first_events(6), first_events(6, reset=True)):
        mock = Mock(faults=[fault])
        completion, _ = sample(mock)
        assert completion.finish_reason == "stop"
        assert len(mock.bodies) == 1


@pytest.mark.parametrize("code", [401, 403, 404, 422])
def test_a_refusal_is_not_tried_again_and_says_what_to_check(code):
    mock = Mock(faults=[status(code, "who are you")])
    with pytest.raises(UpstreamError, match=rf"HTTP {code}.*who are you.*'tiny'.*OPENAI_API_KEY"):
        sample(mock)
    assert len(mock.bodies) == 1


def test_a_prompt_that_is_too_long_is_the_requests_fault():
    fault = status(400, "This model's maximum context length is 10 tokens")
    with pytest.raises(ContextLengthError, match="too long"):
        sample(Mock(faults=[fault]))
    with pytest.raises(UpstreamError, match="HTTP 400"):
        sample(Mock(faults=[status(400, "bad field")]))


@pytest.mark.parametrize("header", ["0.3", "date"])
def test_retry_after_is_obeyed_without_asking_in_between_and_lowers_the_limit(header):
    told = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
    mock = Mock(faults=[status(429, "slow down", Retry_After=told)])
    begun = time.monotonic()
    _, sampler = sample(mock)
    assert time.monotonic() - begun >= (0.3 if header == "0.3" else 0.9)
    assert len(mock.bodies) == 2
    assert 32 <= sampler.upstream.limit.value < 33


def test_a_server_that_wants_an_hour_is_an_error_at_once():
    mock = Mock(faults=[status(429, "later", Retry_After="3600")])
    with pytest.raises(UpstreamError, match="3600 s"):
        sample(mock)
    assert len(mock.bodies) == 1


def test_redirects_do_not_carry_the_question_elsewhere():
    there = "http://127.0.0.1:1/v1"
    with pytest.raises(UpstreamError, match=f"HTTP 307 and names '{there}'; name the address"):
        sample(Mock(faults=[status(307, "there", Location=there)]))


def test_a_list_of_models_that_moved_is_named():
    async def main():
        mock = Mock()
        async with serve(mock):
            mock.models_moved_to = "https://elsewhere/v1/models"
            async with OpenAISampler(HttpConfig(url=mock.url)):
                raise AssertionError("it must not open")

    with pytest.raises(UpstreamError, match="HTTP 308 and names 'https://elsewhere/v1/models'"):
        asyncio.run(main())


def test_a_refused_connection_names_the_url_and_the_cure():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    async def main():
        async with OpenAISampler(HttpConfig(url=url)):
            raise AssertionError("it must not open")

    with pytest.raises(UpstreamError, match=rf"{url}/v1 cannot be reached.*check the address"):
        asyncio.run(main())


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="http://"):
        HttpConfig(url="localhost:8000")
    with pytest.raises(ConfigError, match="max_attempts"):
        HttpConfig(url="http://x", max_attempts=0)


@pytest.mark.parametrize(
    "rest", ["me:canary@x", "canary@x/v1", "x/v1?key=canary", "x?canary", "x/v1#canary"]
)
def test_an_address_with_a_secret_is_refused_and_not_shown(rest):
    with pytest.raises(ConfigError, match=r"http://host:port/path.*OPENAI_API_KEY") as caught:
        HttpConfig(url=f"http://{rest}")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[::1]:8000/", "http://x/a@b/v1/", "https://x/openai/v1"])
def test_addresses_with_a_path_or_of_ipv6_are_fine(url):
    server = Server(HttpConfig(url=url))
    assert server.base == (url.rstrip("/").removesuffix("/v1") + "/v1")


@pytest.mark.parametrize(
    ("served", "asked", "message"),
    [
        (["a", "b"], "", r"choice is needed from the 2 models.*a, b.*as in .*#a"),
        (["a", "b"], "c", r"'c' is not among the 2 models.*a, b"),
        ([], "", r"0 models"),
    ],
)
def test_the_model_name_must_be_one_that_is_served(served, asked, message):
    with pytest.raises(UpstreamError, match=message):
        sample(Mock(models=served), model=asked)


def test_a_reply_signed_by_another_model_is_refused():
    other = raw(event(chunk("other", "stop", content="x")), DONE)
    with pytest.raises(UpstreamError, match=r"'tiny' and answered as 'other'"):
        sample(Mock(faults=[other]))
    dated = raw(event(chunk("tiny-2026-01-01", "stop", content="x")), DONE)
    assert sample(Mock(faults=[dated]))[0].text == "x"
    assert sample(Mock(faults=[other]), check_model=False)[0].text == "x"


def test_the_context_is_read_from_the_list_of_models():
    _, sampler = sample(Mock(max_model_len=4096))
    assert sampler.context_tokens == 4096
    assert sample(Mock())[1].context_tokens is None


# The key


def test_the_key_travels_in_the_header_and_never_in_an_error(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-value")
    mock = Mock()
    sample(mock, api_key_env="MY_KEY")
    assert {h["Authorization"] for h in mock.headers} == {"Bearer sk-secret-value"}
    for fault in (status(401, "bad key sk-secret-value"), status(500, "sk-secret-value")):
        with pytest.raises(UpstreamError) as caught:
            sample(Mock(faults=[fault] * 4), api_key_env="MY_KEY")
        assert "secret" not in str(caught.value)
        assert "***" in str(caught.value)


@pytest.mark.parametrize("before", range(170, 200, 5))
def test_a_key_that_a_quotation_cuts_is_not_half_told(monkeypatch, before):
    monkeypatch.setenv("MY_KEY", "sk-proj-" + "canary" * 8)
    told = "x" * before + "sk-proj-" + "canary" * 8
    for fault in (status(500, told), broken(f"data: {told}\n\n".encode())):
        with pytest.raises(UpstreamError) as caught:
            sample(Mock(faults=[fault] * 4), api_key_env="MY_KEY")
        assert "canary" not in str(caught.value)


@given(cuts=st.lists(st.integers(0, 40)), key=st.sampled_from(["", "k", "sk-canary"]))
@settings(max_examples=60, deadline=None)
def test_a_key_is_taken_out_of_a_body_wherever_it_is_cut(cuts, key):
    page = b"not sk-canar but sk-canarysk-canary!"

    async def pieces():
        places = [0, *sorted(cuts), len(page)]
        for begin, end in pairwise(places):
            yield page[begin:end]

    async def main():
        return b"".join([piece async for piece in server.cleaned(pieces())])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_KEY", key)
        server = Server(HttpConfig(url="http://x", api_key_env="MY_KEY"))
    assert asyncio.run(main()) == (page.replace(key.encode(), b"***") if key else page)


def test_without_a_key_no_header_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    mock = Mock()
    sample(mock)
    assert not any("Authorization" in h for h in mock.headers)


# Counting


def test_ids_are_asked_for_only_when_the_probe_saw_them():
    mock = Mock(knows_ids=True)
    completion, _ = sample(mock, probe=True)
    assert [b.get("return_token_ids") for b in mock.streamed] == [True, True]
    assert completion.token_ids == (100, 101, 102, 103, 104)
    silent = Mock()
    completion, _ = sample(silent, probe=True)
    assert [b.get("return_token_ids") for b in silent.streamed] == [True, None]
    assert completion.token_ids is None
    refusing = Mock(faults=[status(422, "unknown field")])
    assert sample(refusing, probe=True)[0].token_ids is None


@pytest.mark.parametrize(("factor", "alarms"), [(1.0, 0), (0.5, 1), (3.0, 1)])
def test_own_count_bills_when_the_usage_lies(factor, alarms, caplog):
    mock = Mock(knows_ids=True, usage_factor=factor)
    completion, sampler = sample(mock, probe=True)
    assert completion.num_tokens == 5
    assert sampler.alarms == alarms
    assert ("does not keep its own count" in caplog.text) == bool(alarms)


def test_an_impossible_usage_is_replaced_by_an_estimate():
    completion, sampler = sample(Mock(usage_factor=1000.0))
    assert (completion.num_tokens, sampler.alarms) == (7, 1)
    completion, sampler = sample(Mock(usage_factor=0.0))
    assert (completion.num_tokens, sampler.alarms) == (7, 1)


def test_a_missing_usage_is_estimated_from_the_text():
    completion, sampler = sample(
        Mock(sends_usage=False, content="wonderfully " * 20), replace(ASK, max_tokens=100)
    )
    assert completion.num_tokens == int((18 + 239) / 3.6)
    assert sampler.alarms == 0


def test_a_server_that_ignores_max_tokens_is_cut_off():
    completion, sampler = sample(Mock(faults=[endless]), replace(ASK, max_tokens=10))
    assert completion.finish_reason == "length"
    assert completion.num_tokens <= 10 + 17
    assert sampler.alarms == 1


# Tails


def cut(mock: Mock, text: str, count: int, **changes) -> tuple[str, str]:
    async def main():
        async with serve(mock):
            sampler = OpenAISampler(HttpConfig(url=mock.url, **changes))
            async with sampler:
                await sampler.sample(ASK)
                return await sampler.cut_tail(text, count), sampler.tail_method

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_the_ladder_prefers_ids_then_tokenize_then_characters():
    text = "first second third"
    assert cut(Mock(knows_ids=True, can_tokenize=True), text, 2) == (
        " second third",
        "exact (token ids of the server)",
    )
    assert cut(Mock(can_tokenize=True), text, 2) == (
        "second third",
        "exact (the server's /tokenize)",
    )
    tail, method = cut(Mock(), text, 2)
    assert tail == text[-int(2 * 28 / 5) :]
    assert method == "approximate (5.60 characters a token)"
    assert cut(Mock(can_tokenize=True), text, 2, probe=False)[1].startswith("approximate")
    assert cut(Mock(knows_ids=True), "changed text", 1)[1].startswith("approximate")


def test_a_tail_by_characters_goes_by_its_own_text():
    """After a run in English, where a token has ten letters, one of single letters."""

    async def main():
        mock = Mock(reasoning="", content="wonderfully " * 40)
        async with serve(mock), OpenAISampler(HttpConfig(url=mock.url, probe=False)) as sampler:
            for _ in range(5):
                await sampler.sample(ASK)
            mock.reasoning, mock.content = "a b c d e f g h i j", "k l m n o p"
            await sampler.sample(ASK)
            for text in (mock.reasoning, mock.content, f"{mock.reasoning}\n\n{mock.content}"):
                tail = await sampler.cut_tail(text, 4)
                assert 6 <= len(tail) <= 8
                assert text.endswith(tail)
            assert len(await sampler.cut_tail("x" * 1000, 4)) > 16

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("tells", [True, False])
def test_what_a_server_thinks_unseen_makes_no_token_shorter(tells):
    async def main():
        mock = Mock(reasoning="", content="wonderfully " * 9 + "end", hidden=400, tells=tells)
        asked = replace(ASK, max_tokens=500)
        async with serve(mock), OpenAISampler(HttpConfig(url=mock.url, probe=False)) as sampler:
            completion = await sampler.sample(asked)
            assert completion.num_tokens == 410  # the bill
            tail = await sampler.cut_tail(mock.content, 5)
            assert len(tail) == (55 if tells else int(5 * 3.6))

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_local_tokenizer_comes_before_characters():
    class Words:
        def encode(self, text):
            return [len(w) for w in text.split()]

        def decode(self, ids):
            return "|".join(map(str, ids))

    mock = Mock(can_tokenize=True)

    async def main():
        async with serve(mock):
            config = HttpConfig(url=mock.url, probe=False)
            async with OpenAISampler(config, tokenizer=Words()) as sampler:
                assert sampler.last_tokens("a bb ccc", 2) == "2|3"
                assert sampler.last_tokens("a bb ccc", 3) == "a bb ccc"
                assert sampler.tail_method == "exact (local tokenizer)"
                assert sampler.count_prompt_tokens((Message("user", "a bb ccc"),)) == 3 + 8

    asyncio.run(asyncio.wait_for(main(), 20))


@given(
    pieces=st.lists(
        st.tuples(st.text("ab ", min_size=1, max_size=4), st.integers(1, 3)), min_size=1
    ),
    count=st.integers(1, 12),
)
@settings(max_examples=200, deadline=None)
def test_a_tail_by_ids_is_a_suffix_of_at_most_count_tokens_and_nearly_as_long(pieces, count):
    part = Part()
    for text, number in pieces:
        part.add(text, number, keeps_bounds=True)
    ruler = Ruler.of(part)
    whole = "".join(text for text, _ in pieces)
    tail = ruler.cut(whole, count)
    total = sum(n for _, n in pieces)
    if tail is None:
        assert pieces[-1][1] > count
        return
    assert tail
    assert whole.endswith(tail)
    held, rest = 0, len(tail)
    for text, number in reversed(pieces):
        if rest <= 0:
            break
        rest -= len(text)
        held += number
    assert rest == 0
    assert held <= count
    assert held == total or held > count - 3
    assert ruler.cut("absent!", count) is None


# Streams


@given(
    texts=st.lists(st.text(min_size=1, max_size=6).filter(str.isprintable), min_size=1, max_size=4),
    size=st.integers(1, 9),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
@settings(max_examples=60, deadline=None)
def test_events_survive_any_chunking_line_ending_comment_and_split_character(texts, size, end):
    lines = [": comment", "event: x"]
    for text in texts:
        lines += [f"data: {text}", "id: 7", "data:more", "", ""]
    body = end.join(line.encode() for line in lines) + end

    reader = EventReader()
    found = [
        data
        for start in range(0, len(body), size)
        for data in reader.feed(body[start : start + size])
    ]
    assert found == [f"{text}\nmore" for text in texts]


@given(
    lines=st.lists(
        st.sampled_from(["data: a", "data:b", "data: ", "", "", ": c", "id: 7", "data: \u20ac"]),
        max_size=12,
    ),
    end=st.sampled_from(["\n", "\n\n", "\r\n"]),
)
@settings(max_examples=300, deadline=None)
def test_events_that_come_whole_are_those_that_come_byte_by_byte(lines, end):
    body = "".join(line + end for line in lines).encode()
    slow = EventReader()
    assert EventReader().feed(body) == [
        data for at in range(len(body)) for data in slow.feed(body[at : at + 1])
    ]


@pytest.mark.parametrize("end", [b"", b"\n\ndata: x\n\n"])
def test_a_line_above_one_mebibyte_is_refused(end):
    def read(size: int):
        reader = EventReader()
        return reader.feed(b"data: " + b"x" * (size - 6)) + reader.feed(end)

    assert len(read(MAX_LINE_BYTES)) == (2 if end else 0)
    with pytest.raises(StreamError, match="1048576"):
        read(MAX_LINE_BYTES + 1)
    with pytest.raises(StreamError, match="1048576"):
        EventReader().feed(b"data: " + b"x" * MAX_LINE_BYTES + b"\n\n")


def test_an_event_of_lines_that_go_on_for_ever_is_refused():
    reader, stretch = EventReader(), b"data: y\n" * 100_000

    def read():
        for _ in range(20):
            reader.feed(stretch)

    with pytest.raises(StreamError, match="1048576"):
        read()


def test_an_event_that_the_end_cuts_off_is_dropped():
    assert EventReader().feed(b"data: a\n\ndata: b\n") == ["a"]
    with pytest.raises(StreamError, match="UTF-8"):
        EventReader().feed(b"data: \xff\n\n")


# Many calls


def test_cancelling_closes_the_connection_and_frees_the_place():
    async def main():
        mock = Mock(faults=[first_events(2, hang=True)])
        async with serve(mock):
            config = HttpConfig(url=mock.url, probe=False, max_in_flight=1)
            async with OpenAISampler(config) as sampler:
                task = asyncio.create_task(sampler.sample(ASK))
                while not mock.in_flight:
                    await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                begun = time.monotonic()
                while mock.in_flight:
                    await asyncio.sleep(0.005)
                assert time.monotonic() - begun < 0.5
                assert (await sampler.sample(ASK)).finish_reason == "stop"
        return mock

    assert asyncio.run(asyncio.wait_for(main(), 20)).aborted == 1


def test_no_more_calls_than_the_limit_are_in_flight_and_the_oldest_goes_first():
    async def main():
        mock = Mock(delay_s=0.02)
        async with serve(mock):
            config = HttpConfig(url=mock.url, probe=False, max_in_flight=2)
            async with OpenAISampler(config) as sampler:
                requests = [replace(ASK, seed=number, priority=-number) for number in range(8)]
                await asyncio.gather(*map(sampler.sample, requests))
        return mock

    mock = asyncio.run(asyncio.wait_for(main(), 20))
    assert mock.peak_in_flight == 2
    assert [b["seed"] for b in mock.bodies][2:] == [7, 6, 5, 4, 3, 2]


def test_a_whole_run_over_a_failing_server_equals_one_over_a_sound_server():
    config = MarkovianRSAConfig(
        num_candidates=6, tails_per_prompt=2, rounds=1, budget_tokens=40, tail_tokens=2
    )

    async def main(faults):
        # The first call is the probe's: a fault must not cost the run its token ids.
        mock = Mock(knows_ids=True, faults=[status(500)])
        async with serve(mock):
            http = HttpConfig(url=mock.url)
            async with OpenAISampler(http, sleep=Naps()) as sampler:
                mock.faults += faults
                return await MarkovianRSA(config).run("what?", sampler), mock

    clean, _ = asyncio.run(main([]))
    flaky, mock = asyncio.run(main([status(429), *[status(500)] * 2]))
    told = [result.to_json()["rounds"] for result in (clean, flaky)]
    attempts = [[c.pop("attempts") for r in rounds for c in r["candidates"]] for rounds in told]
    assert told[0] == told[1]
    assert [sum(counts) for counts in attempts] == [12, 12 + 3]
    assert not flaky.degraded
    assert clean.answer == "the answer"
    assert {c.tail for r in clean.rounds for c in r.candidates} == {" second third"}
    assert len(mock.streamed) == 2 + 12 + 3


def test_a_certificate_of_a_private_authority_is_refused_until_it_is_named(tmp_path, monkeypatch):
    """SSL_CERT_FILE is how; the error says so."""
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=a -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        ["openssl", *words.split(), "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"data": [{"id": "tiny"}]}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def model_of() -> str:
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as listening:
            port = listening.sockets[0].getsockname()[1]
            server = Server(HttpConfig(url=f"https://127.0.0.1:{port}"))
            try:
                await server.find_model()
            finally:
                await server.close()
            return server.model

    with pytest.raises(UpstreamError, match="SSL_CERT_FILE"):
        asyncio.run(model_of())
    monkeypatch.setenv("SSL_CERT_FILE", cert)
    assert asyncio.run(model_of()) == "tiny"
