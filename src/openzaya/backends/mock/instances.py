"""A value that meets a JSON schema: what a model says when it must call a tool."""

from random import Random
from typing import Any

MAX_DEPTH = 16


def instance(schema: Any, rng: Random, text: str = "mock", depth: int = 0) -> Any:
    """Return a value for the parts of JSON Schema that tools use; `text` fills strings.

    Knows const, enum, default, anyOf/oneOf/allOf (the first), the seven types, properties (all of
    them), items, and bounds of numbers, strings and arrays. A schema deeper than 16 gets null.
    """
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return instance(schema[union][0], rng, text, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    if kind in ("object", "array"):
        return _nested(schema, rng, text, depth + 1)
    if kind in ("integer", "number"):
        return _number(schema, rng, text, whole=kind == "integer")
    if kind == "boolean":
        return rng.random() < 0.5
    return None if kind == "null" else _string(schema, text)


def _nested(schema: dict[str, Any], rng: Random, text: str, depth: int) -> Any:
    if schema.get("type") == "array":
        count = max(1, int(schema.get("minItems", 1)))
        return [instance(schema.get("items") or {}, rng, text, depth) for _ in range(count)]
    properties = schema.get("properties") or {}
    return {name: instance(inner, rng, text, depth) for name, inner in properties.items()}


def _number(schema: dict[str, Any], rng: Random, text: str, *, whole: bool) -> float | int:
    low, high = schema.get("minimum", 0), schema.get("maximum", 1_000_000)
    if text.isdecimal() and low <= int(text) <= high:
        return int(text)
    return rng.randint(int(low), int(min(high, low + 100))) if whole else rng.uniform(low, high)


def _string(schema: dict[str, Any], text: str) -> str:
    padded = text.ljust(int(schema.get("minLength", 0)), "x")
    return padded[: int(schema.get("maxLength", len(padded)))]
