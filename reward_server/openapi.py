"""The service's OpenAPI document, made from the wire's own models.

The scoring endpoints read their bodies raw, so FastAPI cannot derive them; what it could derive is not worth its time
on every request.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from reward_server.schema import PresetInfo, ScoreRequest, ScoreResponse

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_LABEL = {
    "description": "task and reference of an item, with its optional fields and `preset`; or JSON text of that",
    "oneOf": [{"type": "object"}, {"type": "string"}],
}
_FOREIGN: dict[str, dict[str, Any]] = {
    "openrlhf": {
        "summary": "OpenRLHF's remote reward model",
        "request": {
            "type": "object",
            "required": ["query", "prompts", "labels"],
            "properties": {
                "query": {"type": "array", "items": {"type": "string"}},
                "prompts": {"type": "array", "items": {"type": "string"}},
                "labels": {"type": "array", "items": _LABEL},
            },
        },
        "answer": {
            "type": "object",
            "required": ["rewards", "scores", "extra_logs"],
            "properties": {"rewards": _NUMBERS, "scores": _NUMBERS, "extra_logs": {"type": "object"}},
        },
    },
    "slime": {
        "summary": "slime's remote_rm, one sample a request",
        "request": {
            "type": "object",
            "required": ["response", "label"],
            "properties": {"prompt": {}, "response": {"type": "string"}, "label": _LABEL},
        },
        "answer": {"type": "number"},
    },
}
_ERRORS = {
    "400": "The client went away.",
    "401": "The token is missing or wrong.",
    "408": "The request was not complete in time.",
    "413": "The body or the batch is too large.",
    "422": "The body does not fit; `fields` says where.",
    "429": "Too many requests wait; ask again after Retry-After seconds.",
    "431": "The head of the request is too large.",
    "500": "The server failed.",
    "503": "The server is not ready, shutting down, or could not score a response that has to have a number.",
}


def document(title: str, paths: Mapping[str, str]) -> dict[str, Any]:
    """The document.

    Args:
        title: of the service.
        paths: path of each scoring endpoint to its kind of body (`adapters.ADAPTERS`).
    """
    wire: tuple[type[BaseModel], ...] = (ScoreRequest, ScoreResponse, PresetInfo)
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in wire]
    names, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")
    components = dict(schemas["$defs"])
    components["Error"] = {
        "type": "object",
        "required": ["error", "fields"],
        "properties": {
            "error": {"type": "string"},
            "fields": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
                },
            },
        },
    }
    own = {
        "summary": "Score a batch of responses",
        "request": names[ScoreRequest, "validation"],
        "answer": names[ScoreResponse, "validation"],
    }
    operations: dict[str, Any] = {}
    for path, kind in paths.items():
        operations[path] = {"post": _operation(own if kind == "score" else _FOREIGN[kind])}
    for path, summary in (
        ("/healthz", "The process lives"),
        ("/readyz", "The golden items score right"),
        ("/v1/verifiers", "Rules and presets with versions and hashes"),
    ):
        operations[path] = {"get": {"summary": summary, "responses": {"200": _json("An object.", {"type": "object"})}}}
    operations["/readyz"]["get"]["responses"]["503"] = _json("Not ready.", {"$ref": "#/components/schemas/Error"})
    operations["/v1/verifiers"]["get"]["responses"]["401"] = _error("401")
    text = {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    operations["/metrics"] = {
        "get": {"summary": "Prometheus metrics", "responses": {"200": text, "401": _error("401")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": operations,
        "components": {"schemas": components},
    }


def document_page(document: Mapping[str, Any]) -> str:
    """The document as a page that loads nothing."""
    title = html.escape(document["info"]["title"])
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1>"]
    parts.append('<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>')
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {path}</h2><p>{html.escape(operation['summary'])}</p>")
            parts.append(_folded("Request and answers", {k: v for k, v in operation.items() if k != "summary"}))
    parts.append("<h2>Schemas</h2>")
    parts += [_folded(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "\n".join(parts)


def _folded(name: str, content: Mapping[str, Any]) -> str:
    text = html.escape(json.dumps(content, indent=2))
    return f"<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>"


def _operation(kind: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": kind["summary"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": kind["request"]}}},
        "responses": {"200": _json("The scores.", kind["answer"]), **{code: _error(code) for code in _ERRORS}},
    }


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(code: str) -> dict[str, Any]:
    return _json(_ERRORS[code], {"$ref": "#/components/schemas/Error"})
