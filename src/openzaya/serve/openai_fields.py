"""Fields of the OpenAI API's chats that concern thinking, or nothing that our own engine does.

What does not change an answer is taken and ignored, what would change it is refused by name, and
null always means that a field is not given. docs/guides/gateway.md lists every field.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from openzaya.serve.strict import Strict

MAX_TOKENS = 1 << 31
LOW_EFFORT_TOKENS = 1024
"""Most tokens of a thought under the efforts below medium."""
MAX_PREDICTED_PARTS = 1024

ShortText = Annotated[str, Field(max_length=256)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _refuse(value: Any) -> Any:
    if value is not None:
        raise PydanticCustomError(
            "invalid_value", "our engine cannot do this, and the answer would be another; leave out"
        )
    return value


Refused = Annotated[None, BeforeValidator(_refuse)]
"""A field that would change the answer: only null is taken."""


class TemplateOptions(Strict):
    """What a request may tell the chat template."""

    enable_thinking: bool | None = None


class Thinking(BaseModel):
    """How much is thought before the answer."""

    chat_template_kwargs: TemplateOptions | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    reasoning_effort: Effort | None = None

    @model_validator(mode="after")
    def _one_wish(self) -> Self:
        effort, options = self.reasoning_effort, self.chat_template_kwargs
        switch = options.enable_thinking if options is not None else None
        rules = (
            (
                effort is not None and switch is not None and switch != (effort != "none"),
                "reasoning_effort and enable_thinking contradict each other; give one of them",
            ),
            (
                effort is not None and self.thinking_token_budget is not None,
                "reasoning_effort and thinking_token_budget differ; give one of them",
            ),
            (
                self.thinking_token_budget is not None and not self.thinks,
                "thinking_token_budget needs enable_thinking",
            ),
        )
        for broken, message in rules:
            if broken:
                raise PydanticCustomError("invalid_value", "{rule}", {"rule": message})
        return self

    @property
    def thinks(self) -> bool:
        """Whether the reply begins inside a thought."""
        options = self.chat_template_kwargs
        is_off = options is not None and options.enable_thinking is False
        return not is_off and self.reasoning_effort != "none"

    @property
    def think_budget(self) -> int | None:
        """The most tokens of the thought. From medium effort on the model thinks as it does."""
        if self.reasoning_effort in ("minimal", "low"):
            return LOW_EFFORT_TOKENS
        return self.thinking_token_budget


class Hints(BaseModel):
    """Fields with nothing to do for our engine."""

    safety_identifier: ShortText | None = None
    prompt_cache_key: ShortText | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: Annotated[dict[str, Any], Field(max_length=16)] | None = None
    prediction: Annotated[dict[str, Any], Field(max_length=MAX_PREDICTED_PARTS)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: Literal[False] | None = None
    verbosity: Literal["medium"] | None = None
    modalities: (
        Annotated[list[Literal["text"]], Field(min_length=1, max_length=1, fail_fast=True)] | None
    ) = None
    audio: Refused = None
    moderation: Refused = None
    web_search_options: Refused = None
    functions: Refused = None
    function_call: Refused = None


class StreamOptions(Strict):
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
