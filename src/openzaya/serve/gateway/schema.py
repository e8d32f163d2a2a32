"""What may be asked of the gateway: known fields strictly, unknown ones on their way to upstreams.

An upstream may know fields that we do not: those are forwarded as they are, never dropped. What we
know is checked, so that no upstream sees a number out of range or a template of a client.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from openzaya.serve.form_schema import MAX_SCHEMA_CHARS, MAX_TOOLS, MAX_TOOLS_CHARS
from openzaya.serve.openai_fields import MAX_TOKENS
from openzaya.serve.schema import (
    MAX_MESSAGES,
    NULL_CONTENT,
    Count,
    Sampling,
)

REFUSED = ("chat_template", "prompt_embeds", "mm_processor_kwargs", "lora_path", "best_of")
"""Fields that reach into an upstream: templates, tensors and files of a client."""

Scalar = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str | None


class Open(BaseModel):
    """A table whose known fields are checked and whose unknown fields stay."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class OpenMessage(Open):
    """One turn; what a content may hold besides text is the upstream's business."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | Annotated[list[dict[str, Any]], Field(max_length=1024, fail_fast=True)] | None
    ) = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.role == "tool" and self.tool_call_id is None:
            raise PydanticCustomError("missing", "a tool's message needs its tool_call_id")
        extra = self.model_extra or {}
        says = self.tool_calls or extra.get("reasoning_content") or extra.get("reasoning")
        if self.content is None and (self.role != "assistant" or not says):
            raise PydanticCustomError("invalid_value", NULL_CONTENT)
        for part in self.content if isinstance(self.content, list) else ():
            if not isinstance(part.get("type"), str) or (
                part["type"] == "text" and not isinstance(part.get("text"), str)
            ):
                raise PydanticCustomError("invalid_value", "a part needs its type, and text a text")
        return self


class OpenFunction(Open):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: dict[str, Any] | None = None


class OpenTool(Open):
    """One tool."""

    type: Literal["function"]
    function: OpenFunction


class NamedFunction(Open):
    """The name of the function that must be called."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class NamedTool(Open):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Open):
    """A named schema."""

    name: Annotated[str, Field(max_length=64)]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")] = {}


class ResponseFormat(Open):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class OpenStreamOptions(Open):
    """What a stream tells beside its text."""

    include_usage: bool | None = None


class UpstreamChat(Sampling):
    """POST /v1/chat/completions in front of an upstream."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    messages: Annotated[
        list[OpenMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    stream_options: OpenStreamOptions | None = None  # type: ignore[assignment]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[OpenTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")], Scalar], Field(max_length=16)
        ]
        | None
    ) = None
    thinking_token_budget: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = None

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        size = sum(len(str(tool.function.parameters)) for tool in self.tools or ())
        wanted = self.response_format
        rules = (
            (len(limits) > 1, "max_tokens and max_completion_tokens differ; give one of them"),
            (self.top_logprobs is not None and not self.logprobs, "top_logprobs needs logprobs"),
            (
                self.tool_choice not in (None, "none") and not self.tools,
                "tool_choice needs tools",
            ),
            (size > MAX_TOOLS_CHARS, "the schemas of all tools exceed 64 KiB"),
            (
                wanted is not None and len(str(wanted.json_schema)) > MAX_SCHEMA_CHARS,
                "the schema of response_format exceeds 64 KiB",
            ),
            (
                wanted is not None and wanted.type == "json_schema" and wanted.json_schema is None,
                "response_format of type json_schema needs json_schema",
            ),
        )
        for broken, message in rules:
            if broken:
                raise PydanticCustomError("invalid_value", "{rule}", {"rule": message})
        for name in sorted(self.model_extra or {}):
            if name in REFUSED:
                raise PydanticCustomError(
                    "refused", "{name} is not taken from clients", {"name": name}
                )
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens, by either name."""
        return self.max_completion_tokens or self.max_tokens


class UpstreamCompletion(Sampling):
    """POST /v1/completions in front of an upstream."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    prompt: str | list[Any]
    stream_options: OpenStreamOptions | None = None  # type: ignore[assignment]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _nothing_refused(self) -> Self:
        for name in sorted(self.model_extra or {}):
            if name in REFUSED:
                raise PydanticCustomError(
                    "refused", "{name} is not taken from clients", {"name": name}
                )
        return self


class TtcAsk(BaseModel):
    """The `ttc` field; what it holds beside these are settings of the preset."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    preset: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Name of a preset; the model name's or the default one where it is left out."""
    strategy: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Name of a strategy to lay over the preset."""
    progress: Literal["comments", "reasoning", "none"] = "comments"
    """How a stream tells of the work: SSE comments, reasoning deltas, or not at all."""
    usage: Literal["run", "final"] = "run"
    """What `usage.completion_tokens` counts: all generated tokens, or the answer's alone."""
    hint: Annotated[str, Field(max_length=2000)] = ""
    """A last line of every aggregation prompt on the format of the answer."""
    background: bool = False
    """The run goes on when the client leaves; needs an Idempotency-Key."""


SETTINGS_OF_RUN = frozenset({"model", "messages", "n", "stream", "stream_options", "ttc"})
"""Fields that the gateway answers itself and that no upstream sees."""
FINAL_ONLY = frozenset(
    {
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "stop",
        "thinking_token_budget",
    }
)
"""Fields that shape an answer: exploration must not be cut short or forced into a form by them."""
