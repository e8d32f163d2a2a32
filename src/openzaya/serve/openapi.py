"""The OpenAPI document, made from the models that check the requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from openzaya import __version__
from openzaya.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)

POSTS: Mapping[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatRequest, "Continue a conversation"),
    "/v1/completions": (CompletionRequest, "Continue a text"),
    "/tokenize": (TokenizeRequest, "Turn text into token ids"),
    "/detokenize": (DetokenizeRequest, "Turn token ids into text"),
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def build(
    posts: Mapping[str, tuple[type[BaseModel], str]], gets: Mapping[str, str], models: Sequence[str]
) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these routes and models."""
    kinds = [(kind, "validation") for kind in dict.fromkeys(kind for kind, _ in posts.values())]
    _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    for kind, _ in posts.values():
        schemas["$defs"][kind.__name__]["properties"]["model"] = {"enum": list(models)}
    paths: dict[str, Any] = {}
    for path, (kind, summary) in posts.items():
        body = {"$ref": f"#/components/schemas/{kind.__name__}"}
        paths[path] = {
            "post": {
                "summary": summary,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": body}},
                },
                "responses": responses(),
            }
        }
    for path, summary in gets.items():
        paths[path] = {"get": {"summary": summary, "responses": responses()}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "openzaya", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas["$defs"], "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def responses() -> dict[str, Any]:
    """Return the answers that every route may give."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "The answer"},
        "default": {"description": "Why there is none", "content": error},
    }
