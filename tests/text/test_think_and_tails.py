"""Replies come apart as they were put together; tails are bounded and cannot close a turn."""

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE

from openzaya.core.errors import DataError
from openzaya.core.records import Message
from openzaya.text.chat import ChatTemplate
from openzaya.text.jinja import compile_template, pinned_source
from openzaya.text.markers import ALL_MARKERS, strip_control_tokens, strip_markers
from openzaya.text.tails import (
    AGGREGATION_TEMPLATE_SHA256,
    aggregation_messages,
    selection_messages,
    tail_of,
)
from openzaya.text.think import Thought, _parts, all_answer, split_thinking

CALL = "<zyphra_tool_call>\n<function=f>\n</function>\n</zyphra_tool_call>"
plain = st.text(st.characters(exclude_characters="\n<>\ufffd"), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(reasoning=plain, answer=plain)
def test_what_the_template_writes_comes_apart_again(reasoning, answer):
    chat = ChatTemplate.pinned()
    turns = [Message("user", "U"), Message("assistant", answer, reasoning)]
    reply = chat.render(turns, False).removeprefix(chat.render(turns[:1]))
    assert split_thinking(reply) == Thought(reasoning, answer, True)


@pytest.mark.parametrize(
    ("text", "started", "expected"),
    [
        ("r\n</think>\n\na<|im_end|>\njunk", True, Thought("r", "a", True)),
        ("<think>\nr</think>a", True, Thought("r", "a", True)),
        ("<think>r</think>a", False, Thought("r", "a", True)),
        ("r</think>a", False, Thought("r", "a", True)),
        ("never closed", True, Thought("never closed", "", False)),
        ("just text", False, Thought("", "just text", True)),
        (f"r1</think>{CALL}<think>r2</think>a", True, Thought("r1\n\nr2", f"{CALL}\n\na", True)),
        (f"r1</think>{CALL}\n<think>r2", True, Thought("r1\n\nr2", "", False)),
        ("r<|im_end|></think>a", True, Thought("r", "", False)),
        ("r</think>\n\n</think>\n\na", True, Thought("r", "a", True)),
        ("", True, Thought("", "", False)),
        ("\n\nr\n\n</think>\n\na\n", True, Thought("r", "a", True)),
        ("</think>", False, Thought("", "", True)),
    ],
)
def test_odd_replies_come_apart_too(text, started, expected):
    assert split_thinking(text, started) == expected


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        '{"note": "close with </think> first"}',
        '{"a": "<think>x</think>", "b": "</think>"}',
        "Write `<think>` before, and `</think>` after.",
        "Never write <think>",
        "For example:\n```\n<think>\nwhy\n</think>\n\nwhat\n```",
        f"Calls end with {CALL[-18:]}, thoughts with </think>.",
    ],
)
def test_an_answer_may_quote_the_markers_of_thinking(answer, started):
    reply = f"<think>\nr\n</think>\n\n{answer}"
    assert split_thinking(reply, started) == Thought("r", answer, True)
    assert split_thinking(all_answer(answer), False) == Thought("", answer, True)


def test_json_without_reasoning_may_quote_the_closing_marker():
    for text in ('{"a": "</think>"}', '["</think>", "<b>"]'):
        assert split_thinking(text, False) == Thought("", text, True)
    assert split_thinking("{x}: hm</think>4", False) == Thought("{x}: hm", "4", True)


@pytest.mark.parametrize(
    ("source", "finished", "expected"),
    [
        ("thinking", True, "3456"),
        ("answer", True, "wxyz"),
        ("all", True, "wxyz"),
        ("answer_or_thinking", True, "wxyz"),
    ],
)
def test_a_tail_is_the_end_of_its_source(source, finished, expected):
    thought = Thought("123456", "uvwxyz", True)
    assert tail_of(thought, BARE.last_tokens, 4, source, finished=finished) == expected


def test_an_unfinished_candidate_shows_its_reasoning_and_the_answer_begun():
    begun = Thought("123456", "uv", True)
    cut = tail_of(begun, BARE.last_tokens, 6, "answer_or_thinking", finished=False)
    assert cut == "56\n\nuv"
    open_block = Thought("123456", "", False)
    assert tail_of(open_block, BARE.last_tokens, 3, "answer_or_thinking") == "456"
    assert tail_of(open_block, BARE.last_tokens, 3, "answer") == ""


def test_a_long_answer_keeps_its_last_code_block_whole_up_to_twice_the_tail():
    block = "```py\nprint(1)\n```"
    thought = Thought("r", f"first\n\n{block}\n\nas asked", True)
    assert tail_of(thought, BARE.last_tokens, 10, "answer") == block
    assert tail_of(thought, BARE.last_tokens, 8, "answer") == "as asked"
    assert tail_of(thought, BARE.last_tokens, 99, "answer") == thought.answer


@settings(deadline=None, max_examples=60)
@given(
    reasoning=st.lists(st.sampled_from((*ALL_MARKERS, "<th", "ink>", "<|im_", "end|>", "x")))
    .map("".join)
    .filter(bool),
    count=st.integers(1, 30),
)
def test_no_marker_survives_in_a_tail_or_an_aggregation_prompt(reasoning, count):
    tail = tail_of(Thought(reasoning, "", False), BARE.last_tokens, count)
    assert len(BARE.encode(tail)) <= count
    assert strip_markers(tail) == tail
    (message,) = aggregation_messages([Message("user", "Q")], [reasoning, "b"])
    assert not any(marker in message.content for marker in ALL_MARKERS)


@pytest.mark.parametrize(
    "marker",
    [
        "<|eot_id|>",
        "<|start_header_id|>",
        "<\uff5cUser\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "</s>",
        "<s>",
        "[INST]",
        "[/INST]",
        "<end_of_turn>",
    ],
)
def test_a_tail_cannot_end_the_turn_of_a_model_of_another_family(marker):
    half = len(marker) // 2
    nested = marker[:half] + marker + marker[half:]
    deep = marker
    for _ in range(40):
        deep = marker[:half] + deep + marker[half:]
    for text in (marker, nested, deep):
        (message,) = aggregation_messages([Message("user", "Q")], [f"a {text} b", "c"])
        assert marker not in message.content
        assert "a " in message.content
    kept = "x < y | z, [INSTALL] <sup>2</sup>"
    assert strip_control_tokens(kept) == kept


def test_a_conversation_keeps_what_is_no_marker_of_ours():
    text = "<s>old</s> [INST] <\uff5cend\uff5c>"
    assert strip_markers(f"<|im_end|>{text}</think>") == text


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "think>", "a", ""])))
def test_a_reply_is_taken_apart_at_its_markers(pieces):
    text = "".join(pieces)
    assert _parts(text) == re.split("(<think>|</think>)", text)


def test_a_short_trace_passes_whole_and_a_cut_character_is_dropped():
    assert tail_of(Thought("abc", "", False), BARE.last_tokens, 50) == "abc"
    assert tail_of(Thought("\u20ac\u20ac", "", False), BARE.last_tokens, 4) == "\u20ac"
    with pytest.raises(DataError, match="at least 1"):
        tail_of(Thought("abc", "", False), BARE.last_tokens, 0)


def test_the_aggregation_prompt_has_the_wording_that_models_are_trained_on():
    digest = hashlib.sha256(pinned_source("aggregation.jinja").encode()).hexdigest()
    assert digest == AGGREGATION_TEMPLATE_SHA256
    history = (Message("system", "S"), Message("user", "1"), Message("assistant", "2", "r"))
    turns = aggregation_messages((*history, Message("user", "Q")), ["a\n", " b"], "Box it.")
    assert turns[:3] == history
    assert turns[3].content == (
        "Q\n\nCandidate reasoning 1:\na\n\nCandidate reasoning 2:\nb\n\nSome of the candidates may "
        "be wrong or unfinished. Check them against the question, combine what holds and answer "
        "the question.\nBox it."
    )
    (single,) = aggregation_messages([Message("user", "Q")], ["a"])
    assert single.content == (
        "Q\n\nEarlier reasoning:\na\n\nThe reasoning above may be wrong or unfinished. Check it, "
        "continue from it and answer the question."
    )


def test_a_prompt_is_what_the_template_renders_and_knows_its_pieces():
    for name, make in (
        ("aggregation.jinja", lambda q, c, h: aggregation_messages([Message("user", q)], c, h)),
        ("selection.jinja", lambda q, c, _: selection_messages([Message("user", q)], c)),
    ):
        template = compile_template(pinned_source(name))
        for candidates in (["a"], ["0"], ["a", "b"], ["x\n"] * 11):
            for hint in ("", "Box it."):
                (made,) = make("Q\0" + "1\0", candidates, hint)
                shown = [one.strip() for one in candidates]
                expected = template.render(question="Q\0" + "1\0", candidates=shown, hint=hint)
                assert made.content == expected
                assert "".join(made.content.pieces) == expected
                assert set(shown) <= set(made.content.pieces)


def test_an_aggregation_prompt_needs_candidates_and_a_question_at_the_end():
    with pytest.raises(DataError, match="0 candidates"):
        aggregation_messages([Message("user", "Q")], [])
    for messages in ([], [Message("user", "Q"), Message("assistant", "A")]):
        with pytest.raises(DataError, match="ends with"):
            aggregation_messages(messages, ["a"])


def test_candidates_are_data_and_not_template_code():
    (message,) = aggregation_messages([Message("user", "{{ 7 * 7 }}")], ["{% raw %}", "{{ x }}"])
    assert message.content.startswith("{{ 7 * 7 }}\n\nCandidate reasoning 1:\n{% raw %}\n\n")
