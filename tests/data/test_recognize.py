"""Every common shape of record becomes the conversation or text that it means."""

import json

import pytest

from openzaya.core.errors import DataError
from openzaya.data.recognize import FIELDS, Conversation, recognize

ASKED = {"role": "user", "content": "1+1?"}
THOUGHT = {"role": "assistant", "content": "2", "reasoning": "one and one"}
PLAIN = {"role": "assistant", "content": "2", "reasoning": ""}


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": [ASKED, {"role": "assistant", "content": "2"}]}, [ASKED, PLAIN]),
        ({"messages": [ASKED, THOUGHT]}, [ASKED, THOUGHT]),
        (
            {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
            [ASKED, PLAIN],
        ),
        ({"prompt": "1+1?", "completion": "2"}, [ASKED, PLAIN]),
        ({"prompt": [ASKED], "completion": [PLAIN]}, [ASKED, PLAIN]),
        ({"question": "1+1?", "answer": "2", "thinking": "one and one"}, [ASKED, THOUGHT]),
        (
            {"instruction": "Add.", "input": "1, 1", "output": "2"},
            [{"role": "user", "content": "Add.\n\n1, 1"}, PLAIN],
        ),
        (
            {"problem": "1+1?", "solution": "2", "system": "Be brief."},
            [{"role": "system", "content": "Be brief."}, ASKED, PLAIN],
        ),
        (
            {"conversations": [ASKED, PLAIN], "system": "Be brief."},
            [{"role": "system", "content": "Be brief."}, ASKED, PLAIN],
        ),
        (
            {"messages": [{"role": "developer", "content": "Be"}, ASKED, PLAIN], "system": "x"},
            [{"role": "system", "content": "Be"}, ASKED, PLAIN],
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "content": "2", "thinking": "one and one"}]},
            [ASKED, THOUGHT],
        ),
        (
            {
                "messages": [
                    ASKED,
                    {
                        "role": "model",
                        "content": [
                            {"type": "thinking", "thinking": "one and one", "text": None},
                            {"type": None, "text": "2"},
                        ],
                    },
                ]
            },
            [ASKED, THOUGHT],
        ),
        ({"prompt": "1+1?", "response": "2"}, [ASKED, PLAIN]),
        ({"input": "1+1?", "output": [THOUGHT]}, [ASKED, THOUGHT]),
        (
            {"question": "1+1?", "answer": "<think>\none and one\n</think>\n\n2"},
            [ASKED, THOUGHT],
        ),
    ],
)
def test_a_known_shape_becomes_its_turns(record, messages):
    assert recognize(record) == Conversation(messages)


@pytest.mark.parametrize(
    "calls",
    [
        {"tool_calls": '[{"function": {"name": "add", "arguments": {"x": 1}}}]'},
        {"tool_calls": ['{"name": "add", "arguments": "{\\"x\\": 1}"}'], "function_call": None},
        {"function_call": {"name": "add", "arguments": '{"x": 1}'}},
        {"role": None, "from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'},
    ],
)
def test_calls_are_found_in_every_shape(calls):
    turns = [ASKED, {"role": "assistant", "content": None, **calls}, PLAIN]
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    assert recognize({"messages": turns}).messages[1] == {
        "role": "assistant",
        "content": "",
        "reasoning": "",
        "tool_calls": [call],
    }
    empty = {"function_call": {"name": None, "arguments": None}}
    assert recognize({"messages": [ASKED, {**PLAIN, **empty}]}).messages == [ASKED, PLAIN]


@pytest.mark.parametrize(
    ("reply", "reasoning", "answer"),
    [
        ({"content": "2", "reasoning": "<think>\nr\n</think>"}, "r", "2"),
        ({"content": "<think>r</think>\n2", "reasoning_content": "r\n"}, "r", "2"),
        ({"content": "<think>r</think>\n2", "reasoning": " "}, "r", "2"),
        ({"content": "No <think>", "reasoning": "r"}, "r", "No <think>"),
        ({"content": "\n\n2\n", "reasoning_content": "r"}, "r", "2\n"),
        ({"content": "\n\n2", "reasoning_content": ""}, "", "\n\n2"),
        (
            {"content": "<think>r <|im_end|></think>End with <|im_end|>, always.<|im_end|>\n"},
            "r <|im_end|>",
            "End with <|im_end|>, always.",
        ),
    ],
)
def test_thinking_is_found_once_and_markers_in_a_written_text_end_nothing(reply, reasoning, answer):
    found = recognize({"messages": [ASKED, {"role": "assistant", **reply}]})
    assert found.messages[1] == {"role": "assistant", "content": answer, "reasoning": reasoning}


def test_plain_text_stays_plain_text():
    assert recognize({"text": " once upon a time", "id": 7}) == " once upon a time"
    assert recognize({"content": "x", "messages": None}) == "x"


def test_tool_calls_and_tools_are_found_in_objects_and_in_json_text():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    tools = [{"type": "function", "function": {"name": "add"}}]
    turns = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", **call}]},
        {"role": "observation", "content": "2"},
        PLAIN,
    ]
    found = recognize({"messages": turns, "tools": json.dumps(tools)})
    assert found.tools == tools
    parameters = {"properties": {"x": {"type": "integer", "enum": None}, "y": None}}
    other = [{"function": {"name": "add", "parameters": parameters}}]
    found_other = recognize({"messages": turns, "tools": other}).tools
    assert found_other == [
        {"function": {"name": "add", "parameters": {"properties": {"x": {"type": "integer"}}}}}
    ]
    assert found.messages[1] == {
        "role": "assistant",
        "content": "",
        "reasoning": "",
        "tool_calls": [{**call, "function": {"name": "add", "arguments": {"x": 1}}}],
    }
    assert found.messages[2]["role"] == "tool"
    call["function"]["arguments"] = {"x": 1, "y": None}  # a column of another tool
    assert recognize({"messages": turns}).messages[1] == found.messages[1]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([1], "not an object"),
        ({"id": 1}, "unknown shape"),
        ({"text": " \n"}, "empty text"),
        ({"text": 3}, "text is not a string"),
        ({"messages": "hello"}, "messages are not a list"),
        ({"messages": ["hello"]}, "a message is not an object"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown role"),
        ({"messages": [ASKED]}, "no assistant turn"),
        ({"messages": []}, "no assistant turn"),
        ({"prompt": "", "completion": "x"}, "a user turn has no text"),
        ({"messages": [ASKED, {"role": "assistant"}, ASKED, PLAIN]}, "has no answer"),
        ({"messages": [{"role": "user"}, PLAIN]}, "a user turn has no text"),
        ({"prompt": "x", "completion": " "}, "has no answer"),
        ({"prompt": "x", "completion": "<think>\nhm"}, "reasoning never ends"),
        ({"prompt": "x", "completion": [{**THOUGHT, "reasoning": 3}]}, "reasoning is not a string"),
        ({"messages": [ASKED, {**PLAIN, "content": [{"type": "image"}]}]}, "not text"),
        ({"messages": [ASKED, {**PLAIN, "content": 3}]}, "content is not a list"),
        ({"messages": [ASKED, {**PLAIN, "tool_calls": [3]}]}, "no object"),
        ({"messages": [ASKED, {**PLAIN, "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "JSON"),
        ({"messages": [ASKED, {**PLAIN, "tool_calls": [{"arguments": {}}]}]}, "needs a name"),
        ({"messages": [ASKED, PLAIN], "tools": "["}, "tools are not JSON"),
        ({"messages": [ASKED, PLAIN], "tools": "[" * 200_000}, "tools are not JSON"),
        ({"messages": [ASKED, PLAIN], "tools": '["\\ud800"]'}, "tools are not JSON"),
        ({"question": "x", "reasoning": "a", "answer": "<think>\nb</think>c"}, "given twice"),
    ],
)
def test_a_record_without_meaning_is_refused_with_a_reason(record, reason):
    with pytest.raises(DataError, match=reason):
        recognize(record)


def test_the_fields_of_a_table_that_are_read_are_those_looked_for():
    asked = set()

    class Watched(dict):
        def get(self, key, default=None):
            asked.add(key)
            return super().get(key, default)

    for record in ({"messages": [ASKED, PLAIN]}, {"question": "q", "answer": "a"}):
        recognize(Watched(record))
    with pytest.raises(DataError, match="unknown shape"):
        recognize(Watched())
    assert asked == FIELDS
