"""The form of an answer as a grammar: JSON by a schema, tool calls, or text and then calls.

Grammars are written in the variant of Lark that llguidance reads. A call is written as the chat
template writes it, the parameters in the order of their schema. The value of a parameter of type
string is bare text; every other value is JSON.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openzaya.serve.errors import bad_request
from openzaya.serve.form_schema import (
    Function,
    NamedTool,
    ObjectFormat,
    SchemaFormat,
    Tool,
    demands_call,
)
from openzaya.serve.schema import ChatRequest
from openzaya.serve.tool_calls import CLOSE, END, OPEN, is_bare
from openzaya.text.tokenizer import TextTokenizer

SPACES = r"( |\n[ \t]{0,40})?"
"""Between the tokens of JSON: nothing, a space, or a new line; without a bound a model may write
nothing else."""
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated"})
"""Keywords that allow and forbid nothing."""
ROOT = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"})
"""Keywords of a function's parameters that a grammar of parameter blocks keeps."""
BARE = frozenset({"type", "enum", "const", "minLength", "maxLength"})
"""Keywords of a parameter of type string that a grammar of bare text keeps."""
ANY_TEXT = r"(?s:.*)"
NAME = re.compile(r"[^\s>]([^>\r\n]*[^\s>])?")


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer must look like."""

    grammar: str
    """In Lark."""
    param: str
    """The field that asks for it."""


def form_of(ask: ChatRequest, tokenizer: TextTokenizer) -> Form | None:
    """Return the form that a request asks for; None where any text will do.

    Raises ApiError 400 for what no grammar can keep.
    """
    tools = tools_of(ask) or []
    value = _value_of(ask)
    named = ask.tool_choice.function.name if isinstance(ask.tool_choice, NamedTool) else ""
    must_call = demands_call(ask.tool_choice)
    is_single = bool(named) or ask.parallel_tool_calls is False
    is_strict = any(tool.function.strict for tool in tools)
    rules = _Rules(tokenizer)
    if tools and (must_call or value or is_single or is_strict):
        functions = {tool.function.name: tool.function for tool in tools}
        rules.add_calls([functions[named]] if named else list(functions.values()))
        more = "" if is_single else r'("\n" call)*'
        if must_call:
            return Form(rules.reply(f"GAP? call {more}"), "tool_choice")
        if value:
            return Form(rules.reply(f"GAP? (call {more} | {value})"), "response_format")
        return Form(rules.reply(f"{rules.text_before('call')} {more} | TEXT"), "tools")
    return Form(rules.reply(f"GAP? {value}"), "response_format") if value else None


def tools_of(ask: ChatRequest) -> list[Tool] | None:
    """Return the tools that the model is shown."""
    return ask.tools if ask.tool_choice != "none" else None


def _value_of(ask: ChatRequest) -> str:
    """Return the grammar of the JSON that is wanted; empty where none is."""
    wanted = ask.response_format
    if isinstance(wanted, ObjectFormat):
        return json_rule({"type": "object"}, strict=True)
    if isinstance(wanted, SchemaFormat):
        return json_rule(wanted.json_schema.json_schema, bool(wanted.json_schema.strict))
    return ""


def json_rule(schema: Mapping[str, Any], strict: bool) -> str:
    """Return JSON that a schema describes; one that is not strict loses what cannot be kept."""
    options = {"whitespace_pattern": SPACES, "lenient": not strict}
    return "%json " + json.dumps({**schema, "x-guidance": options})


class _Rules:
    """A grammar as it is written, a rule a line."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._lines: list[str] = []

    def reply(self, body: str) -> str:
        """Return the grammar of a reply; line ends may stand between a thought and its answer."""
        gap = [r"GAP: /\n{1,2}/"] if body.startswith("GAP") else []
        return "\n".join(["%llguidance {}", f"start: {body}", *gap, *self._lines])

    def add_calls(self, functions: Sequence[Function]) -> None:
        """Add the rule of a call of any of these functions."""
        names = [self._add_function(at, function) for at, function in enumerate(functions)]
        self._lines.append(f"call: {self._marker(OPEN)} inside")
        self._lines.append(f'inside: "\\n" ({" | ".join(names)}) "\\n" {self._marker(CLOSE)}')

    def text_before(self, call: str) -> str:
        """Return text and then a call; the text ends with the first marker of a call."""
        self._lines.append(f"TEXT: /{ANY_TEXT}/ & ~/{ANY_TEXT}{OPEN}{ANY_TEXT}/")
        if self._tokenizer.token_id(OPEN) is not None:
            return f"TEXT? {call}"
        self._lines.append(f"lead[lazy]: /{ANY_TEXT}{OPEN}/")
        return "lead inside"

    def _marker(self, marker: str) -> str:
        """Return a marker: its token where the vocabulary has one."""
        token = self._tokenizer.token_id(marker)
        return _text(marker) if token is None else f"<[{token}]>"

    def _add_function(self, at: int, function: Function) -> str:
        """Add the rule of one function; return its name."""
        schema, strict = function.parameters or {}, bool(function.strict)
        where = f"tools: the function {function.name}"
        if strict:
            _refuse_others(schema, ROOT, where)
        required, properties = _parameters(schema, where)
        shared: dict[str, Any] = {
            name: schema[name] for name in ("$defs", "definitions") if name in schema
        }
        parts = [_text(f"<function={function.name}>\n")]
        for index, (name, details) in enumerate(properties.items()):
            if strict and is_bare(details):
                _refuse_others(details, BARE, f"{where}, parameter {name}")
            rule = f"p{at}_{index}"
            if is_bare(details):
                _check_lengths(details, f"{where}, parameter {name}")
            value = self._value(f"bare{at}_{index}", details, shared, strict)
            self._lines.append(f"{rule}: {_text(f'<parameter={name}>{chr(10)}')} {value}")
            parts.append(rule if name in required else f"{rule}?")
        self._lines.append(f"f{at}: {' '.join(parts)} {_text('</function>')}")
        return f"f{at}"

    def _value(
        self, rule: str, details: Mapping[str, Any], shared: Mapping[str, Any], strict: bool
    ) -> str:
        """Return a value and the end of its block; bare text gets a rule of its own."""
        if not is_bare(details):
            return f"{json_rule({**shared, **details}, strict)} {_text(END)}"
        allowed = [details["const"]] if "const" in details else details.get("enum")
        if isinstance(allowed, list):
            texts = [_text(f"{text}{END}") for text in allowed if isinstance(text, str)]
            if not texts:
                raise bad_request("tools: an enum of type string holds no string", "tools")
            return f"({' | '.join(texts)})"
        self._lines.append(f"{rule}[lazy]: {_bare_text(details)}")
        return rule


def _check_lengths(details: Mapping[str, Any], where: str) -> None:
    """Refuse lengths that are none. Raises ApiError 400."""
    for name in ("minLength", "maxLength"):
        length = details.get(name, 0)
        if type(length) is not int or length < 0:
            raise bad_request(f"{where}: {name} must be a whole number, 0 or more", "tools")


def _bare_text(details: Mapping[str, Any]) -> str:
    """Return any text, as long as it may be, up to the first end of a block."""
    end, close = (text.replace("\n", r"\n").replace("/", r"\/") for text in (END, f"\n{CLOSE}"))
    least, most = details.get("minLength", 0), details.get("maxLength", "")
    text = f"(?s:.{{{least},{most}}})" if least or most != "" else ANY_TEXT
    return f"/{text}{end}/ & ~/{ANY_TEXT}{end}(?s:.+)/ & ~/{ANY_TEXT}{close}{ANY_TEXT}/"


def _parameters(
    schema: Mapping[str, Any], where: str
) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Return the required names, and all parameters. Raises ApiError 400 for what are none."""
    required, properties = schema.get("required") or [], schema.get("properties") or {}
    if not (isinstance(required, list) and isinstance(properties, dict)):
        raise bad_request(f"{where}: required must be a list, properties an object", "tools")
    found: dict[str, Mapping[str, Any]] = {}
    for name in [*properties, *required]:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise bad_request(
                f"{where} has the parameter {str(name)[:80]!r}; a name that calls can be made with "
                "holds no '>', no line end and no space at its ends",
                "tools",
            )
        details = properties.get(name, {})
        if not isinstance(details, dict):
            raise bad_request(f"{where}: the schema of {name} must be an object", "tools")
        found[name] = details
    return required, found


def _text(text: str) -> str:
    """Return a literal."""
    return json.dumps(text, ensure_ascii=False)


def _refuse_others(schema: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Refuse keywords that would not be kept. Raises ApiError 400."""
    others = sorted(set(schema) - known - ANNOTATIONS)
    if others:
        raise bad_request(
            f"{where} has the keyword {others[0][:80]!r}, which cannot be kept there; known are "
            f"{', '.join(sorted(known))}: leave it out, or strict",
            "tools",
        )
