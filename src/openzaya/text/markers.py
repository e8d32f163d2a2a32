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
_OURS = (
    r"<\|[A-Za-z0-9_]+\|>|</?think>|</?zyphra_tool_(?:call|response)>"
    r"|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_(?:turn|image)>"
)
_CONTROL = re.compile(_OURS)
# And what ends a turn of other families: DeepSeek's wide bars, the words of Llama 2 and Mistral.
_ANY_CONTROL = re.compile(_OURS + r"|<[|\uff5c][\w\u2581-]+[|\uff5c]>|</?s>|\[/?INST\]")

MAX_PASSES = 16


def strip_markers(text: str) -> str:
    """Return `text` without any chat, thinking or tool marker of ours.

    Removing one marker can join the halves of another, so it repeats until nothing is left. Text
    that nests markers deeper than `MAX_PASSES` was made to waste time: it loses every "<".
    """
    return _without(_CONTROL, text)


def strip_control_tokens(text: str) -> str:
    """Return a model's own words without what would end a turn that quotes them, whoever reads it.

    The model behind a server may be of any family, so more goes than `strip_markers` takes: also
    `<s>` and `[INST]`, which a user may mean as text.
    """
    return _without(_ANY_CONTROL, text)


def _without(control: re.Pattern[str], text: str) -> str:
    # Every marker holds one of these; to look for them costs next to nothing.
    if "<" not in text and "INST]" not in text:
        return text
    for _ in range(MAX_PASSES):
        stripped = control.sub("", text)
        if stripped == text:
            return text
        text = stripped
    text = text.replace("<", "")
    return text.replace("[", "") if control is _ANY_CONTROL else text
