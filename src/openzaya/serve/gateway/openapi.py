"""The OpenAPI document of a gateway: the backend's schemas with `ttc`, and the routes of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from openzaya.serve.gateway.choice import names_of
from openzaya.serve.gateway.schema import TtcAsk
from openzaya.serve.openapi import build
from openzaya.ttc import presets, strategies

GETS = {
    "/": "The page",
    "/v1/models": "List the models and their presets",
    "/v1/ttc/presets": "List the presets",
    "/v1/ttc/runs": "List runs, newest first",
    "/health": "Say whether requests are taken, and how the upstreams are",
    "/metrics": "Counters for Prometheus",
    "/openapi.json": "This document",
}
OF_A_RUN = {
    "/v1/ttc/runs/{run}": ("get", "Show a run"),
    "/v1/ttc/runs/{run}/events": ("get", "Follow a run"),
    "/v1/ttc/runs/{run}/cancel": ("post", "End a run"),
    "/v1/ttc/runs/{run}/candidates/{stage}/{slot}": ("get", "Show a candidate"),
}
QUERY = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 200},
    "before": {"type": "string", "maxLength": 128},
    "state": {"enum": ["queued", "running", "done", "failed", "cancelled", "interrupted"]},
}


def document(
    models: Sequence[str], posts: Mapping[str, tuple[type[BaseModel], str]]
) -> dict[str, Any]:
    """Return the OpenAPI document of a gateway."""
    names = [*models, *(name for model in models for name in names_of(model))]
    chat = posts["/v1/chat/completions"][0]
    told = build({**posts, "/v1/ttc/preview": (chat, "Say what a run would cost")}, GETS, names)
    schemas = told["components"]["schemas"]
    ttc = TtcAsk.model_json_schema(ref_template="#/components/schemas/{model}")
    ttc["properties"]["preset"] = {"enum": list(presets)}
    ttc["properties"]["strategy"] = {"enum": list(strategies)}
    schemas["TtcAsk"] = ttc
    field = {"anyOf": [{"const": False}, {"$ref": "#/components/schemas/TtcAsk"}]}
    schemas[chat.__name__]["properties"]["ttc"] = field
    paths = told["paths"]
    paths["/v1/ttc/runs"]["get"]["parameters"] = [
        {"name": name, "in": "query", "schema": schema} for name, schema in QUERY.items()
    ]
    for path, (method, summary) in OF_A_RUN.items():
        parameters = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        paths[path] = {
            method: {
                "summary": summary,
                "parameters": [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                    for name in parameters
                ],
                "responses": paths["/health"]["get"]["responses"],
            }
        }
    return told
