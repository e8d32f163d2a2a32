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

# Besides our own markers: the control tokens of the Gemma vocabulary, and what ends a turn of other
# families, whose models may stand behind a server: anything <|shaped so|>, with the wide bars of
# DeepSeek too, and the words of Llama 2 and Mistral.
_CONTROL = re.compile(
    r"<[|\uff5c][\w\u2581-]+[|\uff5c]>|</?think>|</?zyphra_tool_(?:call|response)>"
    r"|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_(?:turn|image)>|</?s>|\[/?INST\]"
)
_ENDS = ("<", "INST]")
"""Every marker holds one of them; to look for those costs next to nothing."""


MAX_PASSES = 16


def strip_markers(text: str) -> str:
    """Return `text` without any chat, thinking or tool marker.

    Removing one marker can join the halves of another, so it repeats until nothing is left. Text
    that nests markers deeper than `MAX_PASSES` was made to waste time: it loses every "<" and "[".
    """
    if _ENDS[0] not in text and _ENDS[1] not in text:
        return text
    for _ in range(MAX_PASSES):
        stripped = _CONTROL.sub("", text)
        if stripped == text:
            return text
        text = stripped
    return text.replace("<", "").replace("[", "")
