"""Schemas, tools, and what is wrong with a value, for the tests of forms."""

import json
from collections.abc import Mapping
from typing import Any

COLOR = {"type": "string", "enum": ["red", "dark blue", 'a"b', "</think>", "ü"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/color"}, "maxItems": 3},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "next": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["name", "count", "tags", "next"],
    "additionalProperties": False,
    "$defs": {"color": COLOR},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint a wall.",
            "parameters": {
                "type": "object",
                "properties": {
                    "note": {"type": "string", "minLength": 1, "maxLength": 6},
                    "color": COLOR,
                    "size": {"type": "integer", "minimum": -5, "maximum": 5},
                    "who": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
                    "more": {
                        "type": "object",
                        "properties": {"a": {"type": "string", "maxLength": 4}},
                        "additionalProperties": False,
                    },
                },
                "required": ["note", "color", "size", "who"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "wait"}},
]
PAINT = TOOLS[0]["function"]["parameters"]
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}


def by(schema: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
    named = {"name": "it", "schema": schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


NUMBERS = ("minimum", "maximum")
BOUNDS = {
    "integer": NUMBERS,
    "number": NUMBERS,
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}


def complaint(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a value by the part of JSON Schema that these tests use."""
    if "$ref" in schema:
        return complaint(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        found = [complaint(value, option, root) for option in schema["anyOf"]]
        return None if None in found else str(found)
    if "enum" in schema and value not in schema["enum"]:
        return f"{value!r} is none of {schema['enum']}"
    kinds = {
        "object": dict, "array": list, "string": str, "null": type(None), "boolean": bool,
        "integer": int, "number": (int, float),
    }  # fmt: skip
    kind = schema.get("type")
    if kind and not isinstance(value, kinds[kind]):
        return f"{value!r} is no {kind}"
    if bounds := BOUNDS.get(kind):
        size = value if "minimum" in bounds else len(value)
        low, high = schema.get(bounds[0], size), schema.get(bounds[1], size)
        if not low <= size <= high:
            return f"{value!r} is too small or large"
    if kind == "array":
        return next((c for v in value if (c := complaint(v, schema.get("items", {}), root))), None)
    if kind == "object":
        known = schema.get("properties", {})
        missing = set(schema.get("required", ())) - set(value)
        unknown = set(value) - set(known) if schema.get("additionalProperties") is False else None
        if missing or unknown:
            return f"missing {missing}, unknown {unknown}"
        parts = ((value[name], known[name]) for name in value if name in known)
        return next((c for v, part in parts if (c := complaint(v, part, root))), None)
    return None


def finished(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of the choices that ended by themselves; there are some."""
    ended = [c["message"] for c in answer["choices"] if c["finish_reason"] != "length"]
    assert ended, answer
    return ended


def check_call(call: Mapping[str, Any]) -> None:
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "paint":
        assert complaint(arguments, PAINT, PAINT) is None
    else:
        assert (call["function"]["name"], arguments) == ("wait", {})
