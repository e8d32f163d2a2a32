"""The markers of the chat format and how to keep them out of foreign text."""

import re

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
TOOL_MARKERS = (
    "<zyphra_tool_call>",
    "</zyphra_tool_call>",
    "<zyphra_tool_response>",
    "</zyphra_tool_response>",
)
CHAT_MARKERS = (IM_START, IM_END, THINK_OPEN, THINK_CLOSE)
ALL_MARKERS = CHAT_MARKERS + TOOL_MARKERS

# Besides our own markers: the control tokens of the Gemma vocabulary and anything <|shaped so|>.
_CONTROL = re.compile(
    r"<\|[A-Za-z0-9_]+\|>|</?think>|</?zyphra_tool_(?:call|response)>"
    r"|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_(?:turn|image)>"
)


MAX_PASSES = 16


def strip_markers(text: str) -> str:
    """Return `text` without any chat, thinking or tool marker.

    Removing one marker can join the halves of another, so it repeats until nothing is left. Text
    that nests markers deeper than `MAX_PASSES` was made to waste time: it loses every "<".
    """
    if "<" not in text:
        return text  # every marker begins so, and looking for one character costs next to nothing
    for _ in range(MAX_PASSES):
        stripped = _CONTROL.sub("", text)
        if stripped == text:
            return text
        text = stripped
    return text.replace("<", "")
