"""Text that comes in pieces: what is given out never has to be taken back."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, FRAGMENTED

from openzaya.serve.errors import ApiError
from openzaya.serve.json_body import parse
from openzaya.serve.scanners import EdgeTrimmer, StopScanner, ThinkScanner, held_length
from openzaya.serve.stream import Detokenizer
from openzaya.serve.tool_calls import ToolScanner, read_call, read_value
from openzaya.text.think import split_thinking

PARTS = ["<think>", "</think>", "<thi", "nk>", "</", "think>", "\n", "a", "b c", "<", ">"]
PARTS += ["</zyphra_tool_call>"]
PIECES = st.lists(st.sampled_from(PARTS), max_size=20)
CALL = (
    "<zyphra_tool_call>\n<function=f>\n<parameter=x>\n{}\n</parameter>\n</function>\n"
    "</zyphra_tool_call>"
)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


@given(pieces=PIECES, sizes=st.lists(st.integers(0, 5)), started=st.booleans())
def test_thinking_is_told_as_the_whole_reply_tells_it(pieces, sizes, started):
    text = "".join(pieces)
    scanner = ThinkScanner(started)
    told = [scanner.feed(piece) for piece in cut(text, sizes)] + [scanner.finish()]
    reasoning, answer = ("".join(side) for side in zip(*told, strict=True))
    expected = split_thinking(text, started)
    opens, closes = (text.find(marker) % 1000 for marker in ("<think>", "</think>"))
    if not started and closes < opens:
        return  # the whole reply began inside a block, which a stream cannot know
    assert reasoning == expected.reasoning
    if expected.closed:
        assert answer == expected.answer


@given(
    text=st.text(alphabet="ab\n", max_size=40),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(0, 4)),
)
def test_a_stop_string_cuts_at_the_first_place_and_nothing_leaks(text, stops, sizes):
    scanner = StopScanner(stops)
    out = "".join(scanner.feed(piece) for piece in cut(text, sizes))
    out += scanner.finish()
    places = [text.find(stop) for stop in stops if stop in text]
    assert scanner.is_hit == bool(places)
    if not places:
        assert out == text
        return
    # Pieces decide which of two overlapping stops is seen first, never that one is missed.
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    assert any(text.startswith(stop, len(out)) for stop in stops)


@given(text=st.text(alphabet="a\n", max_size=20), sizes=st.lists(st.integers(0, 4)))
def test_outer_newlines_go_and_inner_ones_stay(text, sizes):
    trimmer = EdgeTrimmer()
    assert "".join(map(trimmer.feed, cut(text, sizes))) == text.strip("\n")


@pytest.mark.parametrize(
    ("text", "markers", "length"),
    [("ab<", ("<x>",), 1), ("ab<x", ("<x>",), 2), ("ab<x>", ("<x>",), 0), ("aab", ("abc", "b"), 2)],
)
def test_only_what_may_begin_a_marker_is_held(text, markers, length):
    assert held_length(text, markers) == length


@given(text=st.text())
@pytest.mark.parametrize("tokenizer", [BARE, FRAGMENTED], ids=["bare", "fragments"])
def test_a_text_comes_back_whole_and_no_character_is_ever_split(tokenizer, text):
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(token) for token in tokenizer.encode_plain(text)]
    assert "".join(pieces) + detokenizer.finish() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_never_ends_is_one_replacement():
    detokenizer = Detokenizer(BARE)
    ids = BARE.encode_plain("a\u20ac")[:-1]
    assert "".join(map(detokenizer.feed, ids)) + detokenizer.finish() == "a\ufffd"


@given(sizes=st.lists(st.integers(0, 30)), value=st.text(alphabet="ab<>/ \n{}[]1", max_size=20))
def test_calls_are_found_however_the_text_is_cut(sizes, value):
    if value.startswith("\n") or value.endswith("\n"):
        return
    text = f"before {CALL.format(value)} after\n{CALL.format(1)}"
    scanner = ToolScanner({"f": {"x": {"type": "string"}}})
    told = [scanner.feed(piece) for piece in cut(text, sizes)] + [scanner.finish()]
    assert "".join(outside for outside, _ in told) == "before  after"
    calls = [call for _, calls in told for call in calls]
    assert [json.loads(call.arguments) for call in calls] == [{"x": value}, {"x": "1"}]
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize(
    "text",
    [
        "<zyphra_tool_call>nonsense</zyphra_tool_call>",
        "<zyphra_tool_call><function=f>",
        "<zyphra_tool_call><function=f><parameter=x>1</function></zyphra_tool_call>",
        "<zyphra_tool_call><function=></function></zyphra_tool_call>",
        "<zyphra_tool_call><function=f></function> more</zyphra_tool_call>",
        "<zyphra_tool_cal",
        "</zyphra_tool_call>",
    ],
)
def test_what_is_no_call_stays_text(text):
    scanner = ToolScanner({})
    told = [scanner.feed(piece) for piece in text] + [scanner.finish()]
    assert "".join(outside for outside, _ in told) == text
    assert not any(calls for _, calls in told)


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("17", {"type": "integer"}, 17),
        ("17", {"type": "string"}, "17"),
        ("17", {}, "17"),
        ("17", None, "17"),
        ('{"a": [1]}', None, {"a": [1]}),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("true", {"type": "boolean"}, True),
        ("seven", {"type": "integer"}, "seven"),
        ("1e999", {"type": "number"}, "1e999"),
        ("NaN", {"type": "number"}, "NaN"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("[" * 5000, {"type": "array"}, "[" * 5000),
    ],
)
def test_arguments_are_read_by_their_schema(text, schema, value):
    assert read_value(text, schema) == value


def test_half_a_surrogate_pair_in_an_argument_can_be_sent():
    body = '<function=f><parameter=x>["\\ud800"]</parameter></function>'
    call = read_call(body, {})
    assert call is not None
    assert json.loads(call.arguments.encode()) == {"x": ["\ud800"]}


def test_scanning_a_call_takes_linear_time():
    body = "<function=f>" + "<parameter=x>1</parameter>" * 40_000 + "</function>"
    began = time.process_time()
    assert read_call(body, {}) is not None
    scanner = ToolScanner({})
    for _ in range(20_000):
        scanner.feed("<zyphra_tool_call")
    assert time.process_time() - began < 2


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | FLOATS | TEXT
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8
)


@settings(max_examples=40)
@given(value=st.dictionaries(TEXT, JSON, max_size=4), ascii_only=st.booleans())
def test_strict_json_is_read_as_everybody_reads_it(value, ascii_only):
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(body=st.binary(max_size=60))
def test_no_body_raises_anything_but_a_refusal(body):
    with suppress(ApiError):
        assert isinstance(parse(body), dict)
