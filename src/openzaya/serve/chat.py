"""Messages to prompt ids, through the one encoding that training uses as well."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from openzaya.core.errors import CheckpointError, DataError
from openzaya.serve import json_body
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.form_schema import Tool
from openzaya.serve.schema import (
    AssistantMessage,
    Message,
    TextPart,
    ToolMessage,
)
from openzaya.serve.tool_calls import Schemas
from openzaya.text.chat import ChatTemplate
from openzaya.text.markers import IM_END, THINK_CLOSE
from openzaya.text.tokenizer import TextTokenizer


class ChatCodec:
    """The tokenizer and the template of a model.

    What clients write is always plain text: markers of the chat format in messages are spelled
    out in ordinary tokens.
    """

    def __init__(self, tokenizer: TextTokenizer, template: ChatTemplate) -> None:
        self.tokenizer = tokenizer
        self._template = template
        close = tokenizer.token_id(THINK_CLOSE)
        self.think_end_ids = tuple(tokenizer.encode(f"\n{THINK_CLOSE}\n\n"))
        """What ends a thought."""
        self.think_close_ids = () if close is None else (close,)
        """A token that ends it as well."""
        fragment = tokenizer.token_id(f"{IM_END}\n")
        self.stop_ids = (tokenizer.eos_id, *(() if fragment is None else (fragment,)))
        """Tokens that end a reply."""

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None, thinks: bool
    ) -> list[int]:
        """Return the prompt's ids. Raises ApiError 400 for what the template cannot take."""
        turns = [turn_of(message, at) for at, message in enumerate(messages)]
        functions = [tool.model_dump(exclude_none=True) for tool in tools or ()]
        try:
            return self._template.encode_prompt(
                turns, self.tokenizer, enable_thinking=thinks, tools=functions or None
            )
        except (DataError, RecursionError) as error:
            name = "tools" if tools else "messages"
            kind = type(error.__cause__ or error).__name__
            raise bad_request(
                f"the chat template cannot take these messages or tools ({kind}); send schemas "
                "whose properties are objects",
                name,
            ) from None

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise CheckpointError for a tokenizer or a template with which nothing can be asked."""
        ids = [self.tokenizer.eos_id, *self.think_end_ids]
        with suppress(DataError):  # it wants other turns first
            turns = [{"role": "user", "content": "?"}]
            ids += self._template.encode_prompt(turns, self.tokenizer, enable_thinking=True)
        if max(ids) >= vocab_size:
            raise CheckpointError(
                f"the tokenizer writes the id {max(ids)} into every chat, and the model knows ids "
                f"up to {vocab_size - 1}: they are of different models; take tokenizer.json and "
                "chat_template.jinja from the model's own folder"
            )

    def encode_text(self, text: str, parse_special: bool) -> list[int]:
        """Return the ids of bare text, in which markers are tokens if `parse_special`."""
        tokenizer = self.tokenizer
        return tokenizer.encode(text) if parse_special else tokenizer.encode_plain(text)


def turn_of(message: Message, at: int) -> dict[str, Any]:
    """Return a message as the mapping that templates take."""
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    if isinstance(message, AssistantMessage):
        if message.reasoning_content is not None:
            turn["reasoning"] = message.reasoning_content
        if message.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": arguments_of(call.function.arguments, at),
                    },
                }
                for call in message.tool_calls
            ]
    if isinstance(message, ToolMessage):
        turn["tool_call_id"] = message.tool_call_id
    return turn


def arguments_of(text: str, at: int) -> dict[str, Any]:
    """Return the arguments of a call that the client sends back."""
    try:
        return json_body.parse(text.encode()) if text.strip() else {}
    except ApiError as error:
        raise bad_request(
            f"the arguments of a tool call are no JSON object ({error.message})",
            f"messages.{at}.tool_calls",
        ) from None


def text_of(content: str | list[TextPart] | None) -> str:
    """Return the text of a content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def schemas_of(tools: Sequence[Tool] | None) -> Schemas | None:
    """Return the properties of each function, None without tools."""
    if not tools:
        return None
    found: dict[str, dict[str, Any]] = {}
    for tool in tools:
        properties = (tool.function.parameters or {}).get("properties")
        found[tool.function.name] = properties if isinstance(properties, dict) else {}
    return found
