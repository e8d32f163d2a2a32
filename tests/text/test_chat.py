"""One encoding of conversations: exact text, exact masks, prompts are prefixes of documents."""

import hashlib
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, FRAGMENTED, FRAGMENTS

from openzaya.core.errors import CheckpointError, DataError
from openzaya.core.records import Message
from openzaya.text.chat import PINNED_TEMPLATE_SHA256, ChatTemplate

CHAT = ChatTemplate.pinned()
CONVERSATION = (
    Message("system", "S"),
    Message("user", "U"),
    Message("assistant", "A", "R"),
    Message("user", "V"),
    Message("assistant", "B", "Q"),
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "integer", "enum": [1, "<a>"]}},
                "required": ["x"],
            },
        },
    }
]
CALL = {
    "role": "assistant",
    "content": "hm",
    "reasoning": "r",
    "tool_calls": [{"function": {"name": "add", "arguments": {"x": "q", "y": [1]}}}],
}

words = st.one_of(
    st.text(max_size=5), st.sampled_from(("<|im_end|>\n", "<think>", "\n", " x ", *FRAGMENTS))
)
questions = st.builds(Message, st.sampled_from(("user", "tool")), words)
replies = st.builds(Message, st.just("assistant"), words.filter(bool), st.none() | words)
conversations = st.lists(st.tuples(questions, replies), min_size=1, max_size=3).map(
    lambda pairs: tuple(message for pair in pairs for message in pair)
)


def test_the_pinned_text_is_the_one_that_models_are_trained_on():
    assert CHAT.sha256 == PINNED_TEMPLATE_SHA256
    assert CHAT.render(CONVERSATION, add_generation_prompt=False) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nR\n</think>\n\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nQ\n</think>\n\nB<|im_end|>\n"
    )
    question = "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert CHAT.render(CONVERSATION[1:2]) == question + "<think>\n"
    off = CHAT.render(CONVERSATION[1:2], enable_thinking=False)
    assert off == question + "<think>\n\n</think>\n\n"
    bare = CHAT.render([Message("assistant", "A")], add_generation_prompt=False)
    assert bare == "<|im_start|>assistant\nA<|im_end|>\n"


def test_tools_calls_and_results_are_written_as_the_model_knows_them():
    messages = [Message("user", "U"), CALL, Message("tool", "T1"), Message("tool", "T2")]
    text = CHAT.render(messages, add_generation_prompt=False, tools=TOOLS)
    assert text.startswith("<|im_start|>system\n# Tools\n")
    assert "<tools>\n<function>\n<name>add</name>\n<description>Adds.</description>\n" in text
    assert '<name>x</name>\n<type>integer</type>\n<enum>[1, "<a>"]</enum>\n</parameter>' in text
    assert text.endswith(
        "<|im_start|>assistant\n<think>\nr\n</think>\n\nhm\n<zyphra_tool_call>\n<function=add>\n"
        "<parameter=x>\nq\n</parameter>\n<parameter=y>\n[1]\n</parameter>\n</function>\n"
        "</zyphra_tool_call><|im_end|>\n<|im_start|>user\n"
        "<zyphra_tool_response>\nT1\n</zyphra_tool_response>\n"
        "<zyphra_tool_response>\nT2\n</zyphra_tool_response><|im_end|>\n"
    )
    with_system = CHAT.render([Message("system", "S"), *messages], tools=TOOLS)
    assert with_system.startswith("<|im_start|>system\nS\n\n# Tools\n")
    assert with_system.count("# Tools") == 1


def test_exactly_what_the_model_writes_is_trained():
    for tokenizer in (BARE, FRAGMENTED):
        document = CHAT.encode_turns(CONVERSATION, tokenizer)
        ids, mask = document.tokens, document.loss_mask()
        assert tokenizer.decode(ids[mask].tolist()) == (
            "R\n</think>\n\nA<|im_end|>Q\n</think>\n\nB<|im_end|>"
        )
        last = CHAT.encode_turns(CONVERSATION, tokenizer, loss="last")
        assert tokenizer.decode(last.tokens[last.loss_mask()].tolist()) == (
            "Q\n</think>\n\nB<|im_end|>"
        )
        kinds = [(segment.kind, segment.role) for segment in document.segments]
        assert kinds[:6] == [
            ("markup", "system"),
            ("text", "system"),
            ("markup", "user"),
            ("text", "user"),
            ("markup", "assistant"),
            ("think", "assistant"),
        ]
        assert kinds[-4:] == [
            ("think", "assistant"),
            ("markup", "assistant"),
            ("answer", "assistant"),
            ("markup", "assistant"),
        ]


def test_calls_are_trained_and_results_are_not():
    messages = [Message("user", "U"), CALL, Message("tool", "T1"), Message("assistant", "A", "R")]
    document = CHAT.encode_turns(messages, BARE, tools=TOOLS)
    trained = BARE.decode(document.tokens[document.loss_mask()].tolist())
    assert trained.startswith("r\n</think>\n\nhm\n<zyphra_tool_call>\n<function=add>")
    assert trained.endswith("</zyphra_tool_call><|im_end|>R\n</think>\n\nA<|im_end|>")
    assert "T1" not in trained
    assert ("tool", "tool") in [(segment.kind, segment.role) for segment in document.segments]


def test_a_call_is_the_answer_even_when_nothing_else_is_said():
    messages = [Message("user", "U"), {**CALL, "content": ""}]
    document = CHAT.encode_turns(messages, FRAGMENTED)
    parts = {
        segment.kind: FRAGMENTED.decode(document.tokens[segment.start : segment.end].tolist())
        for segment in document.segments
        if segment.loss
    }
    assert parts["think"] == "r"
    assert parts["answer"].startswith("<zyphra_tool_call>\n<function=add>")
    assert parts["answer"].endswith("</zyphra_tool_call>")
    assert parts["markup"] == "<|im_end|>"
    closes = [s for s in document.segments if s.kind == "markup" and s.loss]
    assert [FRAGMENTED.decode(document.tokens[s.start : s.end].tolist()) for s in closes] == [
        "\n</think>\n\n",
        "<|im_end|>",
    ]


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("line_end", [True, False])
def test_a_turn_that_is_nothing_but_calls_is_trained(content, line_end):
    source = CHAT.source if line_end else CHAT.source.replace("'\\n' if content or", "'\\n' if")
    chat = ChatTemplate(source=source)
    call = {"role": "assistant", "content": content, "tool_calls": CALL["tool_calls"] * 2}
    messages = [Message("user", "U"), call, Message("tool", "T"), call]
    document = chat.encode_turns(messages, BARE)
    written = "<zyphra_tool_call>\n<function=add>\n<parameter=x>\nq\n</parameter>\n"
    written += "<parameter=y>\n[1]\n</parameter>\n</function>\n</zyphra_tool_call>"
    trained = BARE.decode(document.tokens[document.loss_mask()].tolist())
    assert trained == f"{written}\n{written}<|im_end|>" * 2
    whole = chat.render(messages, add_generation_prompt=False)
    assert BARE.decode(document.tokens.tolist()) == whole.removesuffix("\n")
    prompt = chat.encode_prompt(messages[:3], BARE)
    before = chat.encode_turns(messages[:3], BARE).tokens.tolist()
    assert prompt[: len(before)] == before == document.tokens.tolist()[: len(before)]


def test_an_empty_think_block_is_scaffolding():
    document = CHAT.encode_turns([Message("user", "U"), Message("assistant", "A", "")], FRAGMENTED)
    trained = document.tokens[document.loss_mask()].tolist()
    assert FRAGMENTED.decode(trained) == "A<|im_end|>"


@settings(deadline=None, max_examples=80)
@given(messages=conversations)
def test_prompts_are_prefixes_of_documents_and_documents_are_the_rendered_text(messages):
    for tokenizer in (BARE, FRAGMENTED):
        ids = CHAT.encode_turns(messages, tokenizer).tokens.tolist()
        assert tokenizer.decode(ids) == CHAT.render(messages, False).removesuffix("\n")
        for end in range(1, len(messages), 2):
            reasoning = messages[end].reasoning
            if reasoning is not None:
                prompt = CHAT.encode_prompt(messages[:end], tokenizer, reasoning != "")
                assert ids[: len(prompt)] == prompt


@settings(deadline=None, max_examples=40)
@given(
    messages=conversations.filter(
        lambda turns: not any("<" in f"{turn.content}{turn.reasoning}" for turn in turns)
    )
)
def test_pieces_give_the_ids_of_the_whole_text_when_no_token_spans_a_border(messages):
    whole = BARE.encode(CHAT.render(messages, False).removesuffix("\n"))
    assert CHAT.encode_turns(messages, BARE).tokens.tolist() == whole


@settings(deadline=None, max_examples=40)
@given(messages=conversations)
def test_contents_cannot_add_markers(messages):
    """Every turn has one start and one stop token, whatever its content says."""
    start = BARE.token_id("<|im_start|>")
    ids = CHAT.encode_prompt(messages, BARE)
    tools = [message.role == "tool" for message in messages]
    merged = sum(a and b for a, b in pairwise(tools))
    assert ids.count(start) == len(messages) - merged + 1
    assert ids.count(BARE.eos_id) == len(messages) - merged


def test_tool_texts_cannot_add_markers():
    tools = [{"name": "x<|im_end|>", "description": "<|im_<think>start|>system", "parameters": {}}]
    ids = CHAT.encode_prompt([Message("user", "U")], BARE, tools=tools)
    assert ids.count(BARE.eos_id) == 2
    assert ids.count(BARE.token_id("<|im_start|>")) == 3


def test_call_arguments_cannot_end_the_turn():
    call = {"function": {"name": "f", "arguments": {"x": "a<|im_end|>b", "y": ["<think>"]}}}
    messages = [Message("user", "U"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    ids = CHAT.encode_prompt(messages, BARE)
    assert ids.count(BARE.eos_id) == 2
    assert ids.count(BARE.token_id("<think>")) == 1
    assert "\nab\n" in CHAT.render(messages)


def test_mappings_in_the_shape_of_the_api_are_the_same_conversation():
    mappings = [
        {"role": "user", "content": [{"type": "text", "text": "U"}]},
        {"role": "assistant", "content": "A", "reasoning_content": "R"},
    ]
    assert CHAT.render(mappings) == CHAT.render(CONVERSATION[1:3])
    for bad in ({"role": "robot", "content": ""}, {"role": "user", "content": [{"image": "x"}]}):
        with pytest.raises(DataError, match="expected"):
            CHAT.render([bad])
    call = {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}
    with pytest.raises(DataError, match="parse the JSON first"):
        CHAT.render([call])


def test_a_folder_s_own_template_and_bos_are_used(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": {"content": "<bos>"}}))
    assert ChatTemplate.load(tmp_path).render(CONVERSATION[1:2]).startswith("<bos><|im_start|>")
    config.write_text(json.dumps({"bos_token": "<bos>", "add_bos_token": False}))
    assert ChatTemplate.load(tmp_path).render(CONVERSATION[1:2]).startswith("<|im_start|>")
    config.write_text(json.dumps({"chat_template": "inline"}))
    assert ChatTemplate.load(tmp_path).render(CONVERSATION) == "inline"
    ChatTemplate(source="{{ messages[0].content }}!").save(tmp_path)
    assert ChatTemplate.load(tmp_path).render(CONVERSATION) == "S!"


def test_a_template_that_rewrites_contents_still_makes_safe_prompts():
    upper = ChatTemplate(
        source="{% for m in messages %}<|im_start|>{{ m.content | upper }}<|im_end|>{% endfor %}"
    )
    ids = upper.encode_prompt([Message("user", "a<|im_end|>b")], BARE)
    assert BARE.decode(ids) == "<|im_start|>AB<|im_end|>"
    with pytest.raises(DataError, match="rewrites"):
        upper.encode_turns([Message("user", "u")], BARE)


def test_broken_and_hostile_templates_are_explained():
    with pytest.raises(CheckpointError, match="line 2"):
        ChatTemplate(source="\n{% if %}").render(CONVERSATION)
    with pytest.raises(DataError, match="only users"):
        ChatTemplate(source="{{ raise_exception('only users') }}").render(CONVERSATION)
    for hostile in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(DataError, match="refused"):
            ChatTemplate(source=hostile).render(CONVERSATION)


def test_transformers_renders_the_same_text(tmp_path):
    transformers = pytest.importorskip("transformers")
    FRAGMENTED.save(tmp_path)
    CHAT.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U \u00e9 & <x>"},
        CALL,
        {"role": "tool", "content": "T"},
    ]
    for thinking in (True, False):
        theirs = peer.apply_chat_template(
            messages,
            tools=TOOLS,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        assert theirs == CHAT.render(messages, enable_thinking=thinking, tools=TOOLS)
    text = CHAT.render(messages)
    assert peer(text, add_special_tokens=False)["input_ids"] == FRAGMENTED.encode(text)
    assert hashlib.sha256(peer.chat_template.encode()).hexdigest() == CHAT.sha256
