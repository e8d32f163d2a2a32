"""What may be asked: strict models of the request bodies.

Unknown fields, booleans for numbers and numbers beyond their range are refused. Fields of the
OpenAI API that this server cannot honour are taken only with the value that asks for nothing.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.form_schema import MAX_TOOLS, NamedTool, ResponseFormat, ToolChoice, Tools
from openzaya.serve.openai_fields import (
    MAX_TOKENS,
    Hints,
    Refused,
    ShortText,
    StreamOptions,
    TemplateOptions,
    Thinking,
)
from openzaya.serve.strict import FunctionName, Strict

NULL_CONTENT = "content may be null only beside tool_calls or reasoning"
MAX_CHOICES = 16
MAX_MESSAGES = 1024
MAX_PROMPTS = 16
MAX_NAME_CHARS = 200
ROLES = ("system", "developer", "user", "assistant", "tool")
FORBIDDEN_NAME = ("..", "\\", "//")


def can_be_asked_for(name: str) -> bool:
    """Say whether requests may give a model's name."""
    is_path = any(part in name for part in FORBIDDEN_NAME) or name[:1] in ("/", ".")
    return not is_path and name.isprintable() and 0 < len(name) <= MAX_NAME_CHARS


def _check_name(name: str) -> str:
    if not can_be_asked_for(name):
        raise PydanticCustomError("invalid_value", "a model name is no path; see GET /v1/models")
    return name


def _check_parts(content: Any) -> Any:
    """Refuse pictures, sounds and files by name before anything looks at them."""
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise PydanticCustomError(
                    "unsupported_content", "this model reads text only; leave out other parts"
                )
    return content


ModelName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_check_name)
]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


class TextPart(Strict):
    """A stretch of text in a message."""

    type: Literal["text"]
    text: str


# Lists that may hold a million wrong items stop at the first: only one error is ever told.
Parts = Annotated[list[TextPart], Field(min_length=1, max_length=1024, fail_fast=True)]
Content = Annotated[str | Parts, BeforeValidator(_check_parts)]


class SystemMessage(Strict):
    """What the model must heed."""

    role: Literal["system", "developer"]
    content: Content
    name: ShortText | None = None


class UserMessage(Strict):
    """What is asked."""

    role: Literal["user"]
    content: Content
    name: ShortText | None = None


class FunctionCall(Strict):
    """A function with its arguments as JSON text."""

    name: FunctionName
    arguments: str


class ToolCall(Strict):
    """One call that the assistant made."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(Strict):
    """What the model said before."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    name: ShortText | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        # An answer that was cut in its thought has reasoning alone.
        if self.content is None and not (self.tool_calls or self.reasoning_content):
            raise PydanticCustomError("invalid_value", NULL_CONTENT)
        return self


class ToolMessage(Strict):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)]


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Discriminator("role")
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class Sampling(Strict):
    """The fields that chat and plain completions share."""

    model: ModelName
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=300),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    user: ShortText | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("invalid_value", "stream_options needs stream: true")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatRequest(Thinking, Hints, Sampling):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        rules = (
            (len(limits) > 1, "max_tokens and max_completion_tokens differ; give one of them"),
            (self.top_logprobs is not None and not self.logprobs, "top_logprobs needs logprobs"),
            (self.tool_choice not in (None, "none") and not self.tools, "tool_choice needs tools"),
            (
                isinstance(self.tool_choice, NamedTool)
                and self.tool_choice.function.name not in self.function_names,
                "tool_choice names none of the tools",
            ),
            (
                bool(self.continue_final_message) != (self.add_generation_prompt is False),
                "continue_final_message = true and add_generation_prompt = false go together",
            ),
            (
                bool(self.continue_final_message) and not self._is_open,
                "continue_final_message needs an assistant's turn with content at the end, behind "
                "another one, and no thinking_token_budget or low reasoning_effort",
            ),
        )
        for broken, message in rules:
            if broken:
                raise PydanticCustomError("invalid_value", "{rule}", {"rule": message})
        return self

    @property
    def function_names(self) -> set[str]:
        """Names of the tools."""
        return {tool.function.name for tool in self.tools or ()}

    @property
    def _is_open(self) -> bool:
        """Whether the last turn can be continued."""
        last = self.messages[-1]
        is_text = isinstance(last, AssistantMessage) and not last.tool_calls
        return is_text and len(self.messages) > 1 and self.think_budget is None

    @property
    def limit(self) -> int | None:
        """The most tokens, by either name."""
        return self.max_completion_tokens or self.max_tokens


Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
IdLists = Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | Ids | Texts | IdLists
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    suffix: Refused = None
    best_of: Literal[1] | None = None
    parse_special: bool | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens."""
        return self.max_tokens


class TokenizeRequest(Strict):
    """POST /tokenize: a text, or the messages of a chat."""

    model: ModelName | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    chat_template_kwargs: TemplateOptions | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        texts = {self.prompt, self.content} - {None}
        if len(texts) + (self.messages is not None) != 1:
            raise PydanticCustomError("invalid_value", "give prompt or messages, one of them")
        return self


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1 << 20, fail_fast=True)]


M = TypeVar("M", bound=Strict)
_PLAIN_TYPES = {"str", "int", "float", "bool", "none", *ROLES}


def reader(kind: type[M]) -> Callable[[dict[str, Any]], M]:
    """Return what reads a body as the model that describes it; ApiError 400 when that refuses."""

    def read(body: dict[str, Any]) -> M:
        try:
            return kind.model_validate(body)
        except ValidationError as error:
            raise explain(error, kind) from None

    return read


def explain(error: ValidationError, kind: type[BaseModel]) -> ApiError:
    """Return the error that names the field and what is wrong with it, without quoting it."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    # Of the branches of a union, the one that got furthest says most, unless a list is too long.
    # Of those that got as far, the one that has the right type.
    problem = max(
        problems,
        key=lambda found: (
            found["type"] == "too_long",
            len(_names(found["loc"])),
            found["loc"][:1] != (),
            not found["type"].endswith("_type"),
        ),
    )
    param = ".".join(_names(problem["loc"])) or None
    reason = problem["type"]
    code = "unsupported_content" if reason == "unsupported_content" else "invalid_value"
    message = problem["msg"]
    if reason == "extra_forbidden":
        code, message = "unknown_parameter", f"this field is not known to {kind.__name__}"
    elif reason == "missing":
        code, message = "missing_parameter", "this field is needed"
    return bad_request(f"{param}: {message}" if param else message, param, code)


def _names(location: tuple[int | str, ...]) -> list[str]:
    """Return the path of a field without the names of types that pydantic mixes in."""
    keep: Callable[[int | str, int], bool] = lambda part, at: (  # noqa: E731
        isinstance(part, int) or at == 0 or (part.isidentifier() and part not in _PLAIN_TYPES)
    )
    return [str(part)[:80] for at, part in enumerate(location) if keep(part, at)]
