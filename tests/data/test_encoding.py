"""Tokenizing in bulk gives the ids and masks of tokenizing one by one."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, FRAGMENTED, MARKERS

from openzaya.data.encoding import Encoder
from openzaya.data.sources import Fault, Row
from openzaya.text.chat import ChatTemplate
from openzaya.text.document import text_document

CHAT = ChatTemplate.pinned()
texts = st.lists(
    st.sampled_from([*MARKERS, "a", " b", "\n", "\u00e9\u4e2d", "x" * 70]), min_size=1, max_size=6
).map(lambda parts: f"w{''.join(parts)}w")


def encode(rows, tokenizer=BARE, **settings):
    encoder = Encoder(tokenizer, CHAT, **settings)
    return list(encoder.documents([Row(i, row) for i, row in enumerate(rows)], "s")), encoder


def same(left, right):
    return left.tokens.tolist() == right.tokens.tolist() and left.segments == right.segments


@pytest.mark.parametrize("thought", ["R", None, " "])
def test_a_document_begins_with_the_prompt_that_asks_for_its_reply(thought):
    """A reply without reasoning is one with thinking switched off."""
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    asked = [{"role": "user", "content": "U"}]
    replies = ({"content": "A"}, {"content": "", "tool_calls": [call]})
    for reply in replies:
        turn = {"role": "assistant", "reasoning": thought, **reply}
        (document,), _ = encode([{"messages": [*asked, turn]}])
        prompt = CHAT.encode_prompt(asked, BARE, enable_thinking=thought == "R")
        assert document.tokens[: len(prompt)].tolist() == prompt
        assert document.loss_mask().tolist() == [i >= len(prompt) for i in range(len(document))]


@settings(deadline=None, max_examples=60)
@given(
    turns=st.lists(st.tuples(texts, st.none() | texts, texts), min_size=1, max_size=3),
    plain=texts,
    loss=st.sampled_from(["all", "last"]),
    tokenizer=st.sampled_from([BARE, FRAGMENTED]),
)
def test_documents_are_those_of_the_chat_template_and_of_plain_text(turns, plain, loss, tokenizer):
    messages = []
    for question, reasoning, answer in turns:
        messages.append({"role": "user", "content": question})
        # A field of its own, so that markers in the answer stay what they are.
        messages.append({"role": "assistant", "content": answer, "reasoning": reasoning or "r"})
    documents, encoder = encode(
        [{"messages": messages}, {"text": plain}, {"messages": messages}], tokenizer, loss=loss
    )
    expected = CHAT.encode_turns(messages, tokenizer, "s", loss)
    assert not encoder.bad
    assert same(documents[0], expected)
    assert same(documents[2], expected)  # now from the cache
    ids = [*tokenizer.encode_plain(plain), tokenizer.eos_id]
    assert same(documents[1], text_document(ids, "s"))


def test_only_what_the_assistant_writes_is_trained():
    record = {"question": "ab", "answer": "cd", "reasoning": "ef"}
    (document,), _ = encode([record])
    trained = BARE.decode(document.tokens[document.loss_mask()].tolist())
    assert trained == "ef\n</think>\n\ncd<|im_end|>"


def test_bad_rows_are_left_out_with_place_reason_and_excerpt():
    rows = [{"text": "abc"}, {"text": ""}, Fault("invalid JSON", "{x"), {"text": "d" * 9}, 5, 6]
    documents, encoder = encode(rows, most_tokens=9)
    assert [len(document) for document in documents] == [4]
    found = sorted((bad.place, bad.reason.partition(":")[0]) for bad in encoder.bad)
    assert found == [
        (1, "empty text"),
        (2, "invalid JSON"),
        (3, "too many tokens"),
        (4, "not an object"),
        (5, "not an object"),
    ]
    assert {bad.place: bad.excerpt for bad in encoder.bad}[2] == "{x"
    assert list(encoder.reasons().values()) == [2, 1, 1, 1]


@pytest.mark.parametrize("limit", [9, 10])
def test_the_limit_of_tokens_counts_the_stop_token(limit):
    documents, _ = encode([{"text": "d" * 9}], most_tokens=limit)
    assert len(documents) == limit - 9


TURNS = ["messages", "role", "content", "type", "thinking", "reasoning", "prompt", "completion"]
CALLS = ["tools", "tool_calls", "function", "name", "arguments", "parameters", "properties"]
FIELDS = [*TURNS, *CALLS, "required", "description", "text", "question", "answer"]
LEAVES = ["user", "assistant", "tool", "<think>", "</think>", "{}"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(LEAVES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
replies = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": json_values},
    optional={"tool_calls": json_values, "reasoning": json_values},
)
records = json_values | st.fixed_dictionaries(
    {"messages": st.lists(replies, min_size=1, max_size=2)}, optional={"tools": json_values}
)


def nested(depth):
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_a_record_that_is_nested_too_deeply_is_left_out_and_its_neighbors_are_not(field):
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    bad = {**good, field: [{"name": "f", "parameters": {"properties": nested(900)}}]}
    documents, encoder = encode([good, bad, good])
    assert len(documents) == 2
    assert encoder.reasons() == {"nested too deeply": 1}


@settings(deadline=None, max_examples=300)
@given(value=records)
@example(value={"messages": [{"role": "assistant", "content": [{"type": []}]}]})
def test_any_json_value_becomes_a_document_or_a_reason(value):
    documents, encoder = encode([value])
    assert len(documents) + len(encoder.bad) == 1
