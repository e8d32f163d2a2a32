"""Templates of other models: what is trained is what the model would write where it is served."""

import json
from dataclasses import replace
from unittest.mock import patch

import pytest
from text.tiny_tokenizers import BARE, backend

from openzaya.core.errors import CheckpointError, DataError
from openzaya.core.records import Message
from openzaya.text.chat import ChatTemplate
from openzaya.text.jinja import Template
from openzaya.text.tokenizer import TextTokenizer

MARKERS = ("<|begin|>", "<|head|>", "<|/head|>", "<|eot|>")
HEADS = TextTokenizer(backend(markers=MARKERS), {"eos_token": "<|eot|>"})
HEADED = ChatTemplate(
    source="{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content }}"
    "<|eot|>{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}",
    bos_token="<|begin|>",
    eos_token="<|eot|>",
)
"""In the manner of Llama 3."""
THINKS_ITSELF = ChatTemplate(
    source="{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.reasoning is defined %}<think>\n{{ m.reasoning }}\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""In the manner of Qwen 3: prompts open no thought, earlier ones are left out."""
ASKED = [Message("user", "U"), Message("assistant", "A"), Message("user", "V")]
CHAT = [*ASKED, Message("assistant", "B")]


def trained(document, tokenizer):
    return tokenizer.decode(document.tokens[document.loss_mask()].tolist())


def test_a_reply_stops_with_the_template_s_own_token_and_the_next_turn_is_not_trained():
    for chat in (
        HEADED,
        replace(HEADED, source=HEADED.source.replace("<|eot|>", "{{ eos_token }}")),
    ):
        document = chat.encode_turns(CHAT, HEADS)
        assert trained(document, HEADS) == "A<|eot|>B<|eot|>"
        assert document.tokens.tolist() == HEADS.encode(chat.render(CHAT, False))
        prompt = chat.encode_prompt(ASKED, HEADS)
        assert prompt == HEADS.encode(chat.render(ASKED))
        assert prompt == document.tokens[: len(prompt)].tolist()


def test_a_template_whose_replies_do_not_stop_is_refused_and_its_prompts_are_not():
    for source in (HEADED.source, "{% for m in messages %}{{ m.content }}{% endfor %}"):
        unknown = replace(HEADED, source=source, eos_token="")
        with pytest.raises(DataError, match=r"would not learn to stop; name the token"):
            unknown.encode_turns(CHAT, HEADS)
        prompt = unknown.encode_prompt(ASKED, HEADS)
        assert prompt == HEADS.encode(unknown.render(ASKED))
    with pytest.raises(DataError, match="has no token for"):
        ChatTemplate.pinned().encode_turns(CHAT, HEADS)


def test_a_thought_that_the_model_opens_itself_is_trained_from_its_marker_on():
    thinking = [*ASKED, Message("assistant", "B", "R")]
    document = THINKS_ITSELF.encode_turns(thinking, BARE)
    assert trained(document, BARE) == "A<|im_end|><think>\nR\n</think>\n\nB<|im_end|>"
    prompt = THINKS_ITSELF.encode_prompt(ASKED, BARE)
    assert prompt == document.tokens[: len(prompt)].tolist()
    off = THINKS_ITSELF.encode_turns([*ASKED, Message("assistant", "B", "")], BARE)
    assert trained(off, BARE) == "A<|im_end|>B<|im_end|>"
    prompt = THINKS_ITSELF.encode_prompt(ASKED, BARE, enable_thinking=False)
    assert prompt == off.tokens[: len(prompt)].tolist()


def test_a_turn_whose_reasoning_the_template_leaves_out_is_not_trained():
    thought = [ASKED[0], Message("assistant", "A", "Q"), ASKED[2], Message("assistant", "B", "R")]
    document = THINKS_ITSELF.encode_turns(thought, BARE)
    assert trained(document, BARE) == "<think>\nR\n</think>\n\nB<|im_end|>"
    ends_without = [*thought[:3], Message("assistant", "B")]
    assert trained(THINKS_ITSELF.encode_turns(ends_without, BARE), BARE) == "B<|im_end|>"


CALLS = [{"function": {"name": "f", "arguments": {}}}, {"name": "g", "arguments": {}}]
CALLING = [*ASKED, {"role": "assistant", "content": "", "tool_calls": CALLS}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
FIRST_CALL = HEADED.source.replace(
    "{{ m.content }}", "{{ m.content }}{{ m.tool_calls[0].function.name if m.tool_calls }}"
)
ALL_CALLS = HEADED.source.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ (c.function or c).name }}{% endfor %}",
)
CALLS_ALONE = ALL_CALLS.replace("{{ m.content }}", "{{ m.content if not m.tool_calls }}")
FIRST_TOOL = "{{ tools[0] | tojson if tools }}" + ALL_CALLS
NO_SYSTEM = HEADED.source.replace(" in messages %}", " in messages if m.role != 'system' %}")


@pytest.mark.parametrize(
    ("lost", "source", "messages", "tools"),
    [
        ("reasoning", HEADED.source, [*ASKED, Message("assistant", "B", "R")], None),
        ("tool_calls", HEADED.source, CALLING, None),
        ("tool_calls", FIRST_CALL, CALLING, None),
        ("the text beside tool_calls", CALLS_ALONE, CALLING, None),
        ("tools", ALL_CALLS, CALLING, TOOLS),
        ("tools", FIRST_TOOL, CALLING, [*TOOLS, {"name": "g"}]),
        ("the text of the system", NO_SYSTEM, [Message("system", "S"), *CHAT], None),
    ],
)
def test_what_a_template_would_lose_without_a_word_is_refused(lost, source, messages, tools):
    chat = replace(HEADED, source=source)
    with pytest.raises(DataError, match=rf"leaves out {lost}.*, expected one .*take it out"):
        chat.encode_turns(messages, HEADS, tools=tools)
    assert chat.encode_prompt(messages[:1], HEADS, tools=tools)


def test_a_template_may_trim_what_it_writes():
    """Llama's and Gemma's do; documents and prompts are what they write."""
    chat = replace(HEADED, source=HEADED.source.replace("m.content", "m.content | trim"))
    asked = [Message("system", " "), Message("user", "U \n")]
    document = chat.encode_turns([*asked, Message("assistant", "\n A<|eot|>\n")], HEADS)
    assert trained(document, HEADS) == "A<|eot|><|eot|>"
    assert document.tokens.tolist().count(HEADS.eos_id) == 3  # the template's, not the reply's
    prompt = chat.encode_prompt(asked, HEADS)
    assert prompt == HEADS.encode(chat.render(asked))
    assert prompt == document.tokens[: len(prompt)].tolist()


def test_a_record_with_tools_is_rendered_no_more_than_three_times():
    chat, count = replace(HEADED, source="{{ tools | tojson if tools }}" + ALL_CALLS), 0

    def render(template, original=Template.render, **variables):
        nonlocal count
        count += 1
        return original(template, **variables)

    chat.encode_turns(CALLING, HEADS, tools=TOOLS)  # what is looked up once for a template is
    with patch.object(Template, "render", render):
        chat.encode_turns(CALLING, HEADS, tools=TOOLS)
    assert count == 3


def test_a_template_that_fails_on_a_conversation_refuses_it():
    chat = replace(HEADED, source="{{ messages[0].content.index('x') / 0 }}")
    for content in ("x", "y"):
        with pytest.raises(DataError, match="the template refused the conversation: "):
            chat.encode_turns([Message("user", content), CHAT[1]], HEADS)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("chat_template.jinja", b"\xff"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}'),
        ("tokenizer_config.json", b'{"chat_template": ["x"]}'),
    ],
)
def test_a_template_that_cannot_be_read_is_named(tmp_path, name, body):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(CheckpointError, match=r"chat template of .* cannot be read .* copy"):
        ChatTemplate.load(tmp_path)


def test_calls_that_a_template_writes_are_trained():
    document = replace(HEADED, source=ALL_CALLS).encode_turns(CALLING, HEADS)
    assert trained(document, HEADS) == "A<|eot|>fg<|eot|>"


def test_the_stop_token_and_one_of_several_templates_are_read_from_the_folder(tmp_path):
    config = {"bos_token": "<|begin|>", "eos_token": {"content": "<|eot|>"}}
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": HEADED.source}]
    for chat_template in (HEADED.source, several):
        text = json.dumps({**config, "chat_template": chat_template})
        (tmp_path / "tokenizer_config.json").write_text(text)
        assert ChatTemplate.load(tmp_path) == HEADED


@pytest.mark.parametrize("between", ["", "\\n", "\\n\\n"])
def test_calls_stand_behind_a_text_or_alone(between):
    """Qwen 3.5 writes an empty line in front of calls, but only behind a text."""
    source = ALL_CALLS.replace(
        "{% for c", f"{{{{ '{between}' if m.content and m.tool_calls }}}}{{% for c"
    )
    for content in ("", "hm"):
        messages = [*ASKED, {**CALLING[-1], "content": content}]
        document = replace(HEADED, source=source).encode_turns(messages, HEADS)
        ends = between.replace("\\n", "\n") if content else ""
        assert trained(document, HEADS) == f"A<|eot|>{content}{ends}fg<|eot|>"


def test_the_tags_by_which_transformers_finds_replies_change_nothing():
    tagged = HEADED.source.replace(
        "{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"
    )
    document = replace(HEADED, source=tagged).encode_turns(CHAT, HEADS)
    assert document.tokens.tolist() == HEADED.encode_turns(CHAT, HEADS).tokens.tolist()


CALL_OPEN, CALL_CLOSE = "<\uff5ccall\uff5c>", "<\uff5cend\uff5c>"
CALLERS = TextTokenizer(
    backend(markers=(*MARKERS, CALL_OPEN, CALL_CLOSE)), {"eos_token": "<|eot|>"}
)


@pytest.mark.parametrize("brought", ["", CALL_CLOSE])
def test_markers_that_a_template_writes_around_calls_are_single_tokens(brought):
    """DeepSeek's and others'; one that a call brings along is spelled out wherever it stands."""
    source = ALL_CALLS.replace(
        "{{ (c.function or c).name }}",
        f"{CALL_OPEN}{{{{ c.name }}}}{{{{ c.arguments.x }}}}{CALL_CLOSE}",
    )
    chat = replace(HEADED, source=source)
    call = {"name": "f", "arguments": {"x": brought}}
    messages = [
        ASKED[0],
        {"role": "assistant", "content": CALL_OPEN, "tool_calls": [call]},
        ASKED[2],
    ]
    document = chat.encode_turns([*messages, Message("assistant", "B")], CALLERS)
    opened, closed = map(CALLERS.token_id, (CALL_OPEN, CALL_CLOSE))
    text = document.tokens.tolist()
    assert text.count(opened) == 1  # the template's, not the content's
    assert text.count(closed) == (0 if brought else 1)
    assert CALLERS.decode(text) == chat.render([*messages, Message("assistant", "B")], False)
    prompt = chat.encode_prompt(messages, CALLERS)
    assert prompt == text[: len(prompt)]
