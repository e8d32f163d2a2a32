"""An assistant's turn that the client leaves open (`continue_final_message`): the model goes on."""

import re
from dataclasses import dataclass

from openzaya.serve.chat import ChatCodec, text_of
from openzaya.serve.form_schema import Tool
from openzaya.serve.schema import AssistantMessage, ChatRequest
from openzaya.text.markers import THINK_CLOSE, THINK_OPEN

CLOSING = re.compile(rf"\n?{re.escape(THINK_CLOSE)}(?:\n\n)?")
"""The end of a thought with the line breaks that are one token with it in some vocabularies."""


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """How the turn begins."""

    thought: str | None
    """What was thought; None for a turn that does not think."""
    closing: str
    """What ended the thought; empty while it is open."""
    answer: str
    """What was answered so far."""

    @property
    def is_thinking(self) -> bool:
        """Whether the model goes on inside the thought."""
        return self.thought is not None and not self.closing


def open_turn(turn: AssistantMessage) -> OpenTurn:
    """Read a turn: `<think>` at its beginning opens a thought, `</think>` ends it."""
    content = text_of(turn.content)
    if turn.reasoning_content is not None:
        return OpenTurn(turn.reasoning_content, f"\n{THINK_CLOSE}\n\n", content)
    if not content.startswith(THINK_OPEN):
        return OpenTurn(None, "", content)
    thought = content.removeprefix(THINK_OPEN).removeprefix("\n")
    found = CLOSING.search(thought)
    if found is None:
        return OpenTurn(thought, "", "")
    return OpenTurn(thought[: found.start()], found[0], thought[found.end() :])


def begun_answer(ask: ChatRequest) -> str:
    """Return the part of the answer that a turn to continue holds."""
    last = ask.messages[-1]
    is_open = ask.continue_final_message and isinstance(last, AssistantMessage)
    return open_turn(last).answer if is_open else ""  # type: ignore[arg-type]


def encode_chat(
    codec: ChatCodec, ask: ChatRequest, tools: list[Tool] | None
) -> tuple[list[int], bool]:
    """Return the prompt's ids, and whether the reply begins inside a thought.

    Raises ApiError 400 for what the template cannot take.
    """
    last = ask.messages[-1]
    if not ask.continue_final_message or not isinstance(last, AssistantMessage):
        return codec.encode(ask.messages, tools, ask.thinks), ask.thinks
    turn = open_turn(last)
    ids = codec.encode(ask.messages[:-1], tools, turn.thought is not None)
    # What clients write stays plain text: of markers only that which ends the thought is one.
    for text, is_marker in ((turn.thought, False), (turn.closing, True), (turn.answer, False)):
        if text:
            ids += codec.encode_text(text, parse_special=is_marker)
    return ids, turn.is_thinking
