"""What a request may say of the form of its answer: tools, and a schema."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field
from pydantic_core import PydanticCustomError

from openzaya.serve.strict import FunctionName, Strict

MAX_TOOLS = 128
MAX_TOOLS_CHARS = 64 << 10
MAX_SCHEMA_CHARS = 64 << 10


class Function(Strict):
    """A function that the model may call."""

    name: FunctionName
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """One tool."""

    type: Literal["function"]
    function: Function


def _check_tools(tools: list[Tool]) -> list[Tool]:
    if sum(len(str(tool.function.parameters)) for tool in tools) > MAX_TOOLS_CHARS:
        raise PydanticCustomError("invalid_value", "the schemas of all tools exceed 64 KiB")
    return tools


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS), AfterValidator(_check_tools)]


class FunctionRef(Strict):
    """The name of the function that must be called."""

    name: FunctionName


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionRef


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def demands_call(choice: object) -> bool:
    """Say whether a choice of tools, ours or the gateway's, wants a call in every reply."""
    return choice not in (None, "none", "auto")


class PlainFormat(Strict):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


def _check_size(schema: dict[str, Any]) -> dict[str, Any]:
    if len(str(schema)) > MAX_SCHEMA_CHARS:
        raise PydanticCustomError("invalid_value", "the schema exceeds 64 KiB")
    return schema


class NamedSchema(Strict):
    """A JSON schema; a strict one may hold nothing that cannot be kept."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: Annotated[str, Field(max_length=16_384)] | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema"), AfterValidator(_check_size)]
    strict: bool | None = None


class SchemaFormat(Strict):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainFormat | ObjectFormat | SchemaFormat, Discriminator("type")]
