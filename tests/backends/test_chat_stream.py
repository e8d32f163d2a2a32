"""What streams say, and that the short cuts around JSON never change it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.backends import chat_stream
from openzaya.backends.chat_stream import RING_TOKENS, ChatStream
from openzaya.backends.event_frame import Frames
from openzaya.backends.json_text import body_with_messages
from openzaya.backends.sse import EventReader, StreamError
from openzaya.backends.tails_http import Ruler, TailCutter
from openzaya.core.joined import Joined
from openzaya.core.records import Watch
from openzaya.serve.tool_calls import ToolScanner

WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["a", "content", "m", '"', "\\", "\\n", "\n", "\u2028", '","x":"', "{}", "é"]),
)


def event(field: str, text: str, finish=None, **more) -> str:
    choice = {"index": 0, "delta": {field: text}, "finish_reason": finish, **more}
    return json.dumps({"id": "m", "model": "m", "choices": [choice]}, ensure_ascii=False)


@given(
    lines=st.lists(
        st.sampled_from(
            ["data: a", "data: b", "data:c", "data: ", "data", ": d", "id: 1", "\r", "e"]
        )
        | st.sampled_from(["", "", "", "data: f\r", "data: \u2028", "data: \ndata: g"]),
        max_size=12,
    ),
    size=st.integers(1, 60),
)
@settings(max_examples=300, deadline=None)
def test_events_are_the_same_however_the_stream_is_cut(lines, size):
    stream = "".join(f"{line}\n" for line in lines).encode()
    cut, by_line = EventReader(), EventReader()
    parts = [stream[i : i + size] for i in range(0, len(stream), size)]
    found = [event for part in parts for event in cut.feed(part)]
    # No line is an event by itself: this way every line is looked at.
    assert found == [event for line in stream.splitlines(True) for event in by_line.feed(line)]


def test_lines_that_are_no_data_and_ends_of_lines_belong_to_no_event():
    assert EventReader().feed(b"data: a\n\ndata: b\n: d\ndata:c\n\n") == ["a", "b\nc"]
    assert EventReader().feed(b"data: a\r\n\ndata: b\n\n") == ["a", "b"]


class NoFrames(Frames):
    """Leaves every event to json."""

    def read(self, *_):
        return None


@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from(["content", "reasoning", "reasoning_content"]),
            WORDS,
            st.lists(st.integers(0, 300_000), max_size=3),
        ),
        max_size=12,
    ),
    spaces=st.booleans(),
    together=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_events_read_without_json_say_what_json_says(pieces, spaces, together):
    events = [event(field, text, token_ids=ids) for field, text, ids in pieces]
    if not spaces:
        events = [json.dumps(json.loads(one), separators=(",", ":")) for one in events]
    events.append(event("content", "", "stop"))
    frames = Frames()
    for _ in range(2):  # the second stream knows the forms of the first one's events
        fast, slow = ChatStream(Watch(), frames=frames), ChatStream(Watch(), frames=NoFrames())
        for stream in (fast, slow):
            if together:
                stream.feed(*events)
            else:
                for one in events:
                    stream.feed(one)
            assert stream.reasoning.text == "".join(t for f, t, _ in pieces if f != "content")
            assert stream.content.text == "".join(t for f, t, _ in pieces if f == "content")
            assert stream.token_ids == [one for _, _, ids in pieces for one in ids]
        for name in ("num_chunks", "num_seen", "num_chars", "reasoning_field", "finish_reason"):
            assert getattr(fast, name) == getattr(slow, name), name
        for name in ("reasoning", "content"):
            assert getattr(fast, name).ids == getattr(slow, name).ids, name
        assert "".join(fast._watch.pieces) == "".join(slow._watch.pieces)
        assert fast._watch.num_tokens == slow._watch.num_tokens


@pytest.mark.parametrize("ids", ["1,,2", ",1", "1,", "1 2", "1 , 2,3", "-1", "1.5", "x", "\u00b2"])
def test_what_is_no_list_of_ids_is_left_to_json(ids):
    stream = ChatStream()
    first = event("content", "a", token_ids=[1, 2])
    stream.feed(first, event("content", "b", token_ids=[3]))
    odd = first.replace("[1, 2]", f"[{ids}]")
    assert odd != first
    try:
        json.loads(odd)
    except ValueError:
        with pytest.raises(StreamError):
            stream.feed(odd)
        assert stream.token_ids == (1, 2, 3)


def test_what_stands_beside_the_text_is_read_in_every_event_and_stream():
    frames = Frames()
    for model, usages in (("one", (1, 1, 1)), ("two", (None, 1, 1)), ("three", (None, 2, 3))):
        stream = ChatStream(frames=frames)
        for text, used in zip("abc", usages, strict=True):
            told = {"model": model, **json.loads(event("content", text))}
            told["model"] = model
            stream.feed(json.dumps(told | {"usage": used and {"completion_tokens": used}}))
        assert (stream.text, stream.model) == ("abc", model)
        assert stream.usage == {"completion_tokens": usages[-1]}
    both = {"index": 0, "delta": {"content": "c", "reasoning": "r"}}
    stream = ChatStream(frames=frames)
    for _ in range(3):
        stream.feed(json.dumps({"choices": [both]}))
    assert (stream.reasoning.text, stream.content.text) == ("rrr", "ccc")


def test_a_watch_hears_of_events_that_come_together_once():
    watch = Watch()
    heard = []
    watch.on_text = lambda text, num_tokens: heard.append((text, num_tokens))
    ids = {"token_ids": [7]}
    events = [event("content", text, **ids) for text in ("a", "b</think>", "c", "d")]
    ChatStream(watch).feed(*events)
    # What follows the block is told apart: an answer's allowance counts it.
    assert heard == [("ab</think>", 2), ("cd", 2)]


def test_the_short_cut_is_taken_where_it_can_be(monkeypatch):
    parsed = []
    real = chat_stream._scan
    monkeypatch.setattr(chat_stream, "_scan", lambda data: parsed.append(1) or real(data))
    stream = ChatStream()
    for _ in range(100):
        stream.feed(event("content", " word"))
    stream.feed(event("content", ' "word"\n'))
    assert stream.content.text == " word" * 100 + ' "word"\n'
    assert len(parsed) == 1


def test_a_character_in_two_halves_is_joined_and_a_lone_half_replaced():
    stream = ChatStream()
    for half in ("\ud83d", "\ude00 ", "\ud800"):
        stream.feed(event("content", half))
    assert stream.text == "\U0001f600 \ufffd"


def test_what_the_watch_hears_is_the_text_and_thinking_is_closed_in_it():
    for content in ("", "so"):
        watch = Watch()
        stream = ChatStream(watch)
        stream.feed(event("reasoning", "hm"))
        if content:
            stream.feed(event("content", content))
        stream.feed(event("content", "", "stop"))
        assert "".join(watch.pieces) == stream.text == f"hm\n</think>\n\n{content}"


def test_a_long_stream_keeps_the_boundaries_of_its_end_only():
    stream = ChatStream()
    for number in range(3 * RING_TOKENS):
        stream.feed(event("content", f"{number % 10}", token_ids=[number]))
    assert len(stream.token_ids) == 3 * RING_TOKENS
    assert RING_TOKENS <= len(stream.content.ids) < 2 * RING_TOKENS
    ruler = Ruler.of(stream.content)
    text = stream.content.text
    assert ruler.cut(text, 5000) == text[-5000:]
    assert ruler.cut(text, 3 * RING_TOKENS) is None
    cutter = TailCutter()
    cutter.remember(stream.content)
    assert cutter.last_tokens("\n" + text + "\n", 5000) != text[-5000:]
    assert cutter.last_tokens(text, 5000) == text[-5000:]
    assert cutter.method == "exact (token ids of the server)"


def test_ids_that_come_before_their_character_count_in_a_tail():
    """A server sends the ids of a character's first bytes with an empty text."""
    stream = ChatStream()
    for at in range(20):
        for begun in (3 * at, 3 * at + 1):
            stream.feed(event("content", "", token_ids=[begun]))
        stream.feed(event("content", "\U0001f600", token_ids=[3 * at + 2]))
    assert len(stream.token_ids) == 60
    cutter = TailCutter()
    cutter.remember(stream.content)
    assert cutter.by_ids(stream.text, 9) == "\U0001f600" * 3
    assert cutter.by_ids(stream.text, 8) == "\U0001f600" * 2


def test_texts_that_end_alike_are_told_apart():
    cutter = TailCutter()
    ending = "the end " * 60
    texts = ["first " + ending, "other " + ending]
    for text in texts:
        stream = ChatStream()
        for word in text.split(" "):
            stream.feed(event("content", f"{word} ", token_ids=[1]))
        cutter.remember(stream.content)
    whole = 200
    assert cutter.by_ids(texts[1] + " ", whole) == texts[1] + " "
    assert cutter.by_ids(texts[0] + " ", whole) is None


@pytest.mark.parametrize(
    "calls", ["x", [1], [{"index": -1}], [{"index": 0, "function": {"name": 7}}]]
)
def test_tool_calls_of_another_form_are_refused(calls):
    choice = {"index": 0, "delta": {"tool_calls": calls}}
    with pytest.raises(StreamError, match="tool call"):
        ChatStream().feed(json.dumps({"choices": [choice]}))


def test_arguments_that_are_no_object_stay_as_they_came():
    stream = ChatStream()
    for name, arguments in (("f", '{"a": 1, "b'), ("", '": "x"}')):
        call = {"index": 0, "function": {"name": name, "arguments": arguments}}
        stream.feed(json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}))
    call = {"index": 1, "function": {"name": "g", "arguments": "oops"}}
    last = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    stream.feed(json.dumps({"choices": [last]}))
    assert stream.text == (
        '<zyphra_tool_call>\n<function=f>\n{"a": 1, "b": "x"}\n</function>\n</zyphra_tool_call>\n'
        "<zyphra_tool_call>\n<function=g>\noops</function>\n</zyphra_tool_call>"
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(["5", "true", "</parameter>", "</function>", "</zyphra_tool_call>", "\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=5,
)


@given(arguments=st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES))
@settings(max_examples=200, deadline=None)
def test_arguments_that_a_server_told_come_back_as_they_were_whatever_their_schema(arguments):
    """5 is no "5", and what would end a call stands in a value."""
    call = {"index": 0, "function": {"name": "f", "arguments": json.dumps(arguments)}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    stream = ChatStream()
    stream.feed(json.dumps({"choices": [choice]}))
    for schema in ({"type": "string"}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {}):
        scanner = ToolScanner({"f": dict.fromkeys(arguments, schema)})
        text, (told,) = scanner.feed(stream.text)
        assert (text, told.name, json.loads(told.arguments)) == ("", "f", arguments)


@given(
    text=st.one_of(
        st.text(max_size=20), st.sampled_from(["\\", '"', "\n", "\t", "\x00", "\ud800"])
    ),
    times=st.sampled_from([1, 2000]),
    extra=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_body_is_the_json_that_json_would_write(text, times, extra):
    message = {"role": "user", "content": text * times, **({"name": "x"} if extra else {})}
    messages = [{"role": "system", "content": "s"}, message, {"role": "user", "content": None}]
    pieces = Joined.of([text] * times)
    assert pieces == text * times
    messages.append({"role": "user", "content": pieces})
    told = json.loads(body_with_messages({"model": "m"} if extra else {}, messages))
    safe = json.loads(json.dumps(messages, ensure_ascii=False).encode("utf-8", "replace"))
    assert told == {**({"model": "m"} if extra else {}), "messages": safe}
