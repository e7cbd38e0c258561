"""How OpenAPI describes what the routes read and write by hand: bodies that pass through as they are, and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from service.wire import scorer, strategy
from service.wire.chat import ChatRequest

ANYTHING: dict[str, Any] = {"type": "object", "additionalProperties": True}
MESSAGES = {
    400: "A field is wrong; `param` is its path.",
    401: "The key is wrong or missing.",
    403: "The key is no admin's.",
    404: "There is no such model, preset or path.",
    413: "The body is too large.",
    429: "Too many requests wait; with `Retry-After`.",
    502: "The engine answered nonsense.",
    503: "The engine is down or starting, or the server is going down; with `Retry-After`.",
    504: "The budget ended with nothing to show.",
}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
COMPLETION: dict[str, Any] = {
    "type": "object",
    "required": ["choices", "usage"],
    "properties": {
        "choices": {"type": "array", "items": {"type": "object", "required": ["index", "message", "finish_reason"]}},
        "usage": {"type": ["object", "null"]},
        "outthink": ANYTHING,
    },
}
PLAN: dict[str, Any] = {
    "type": "object",
    "required": ["object", "strategy", "rounds", "branches", "tokens"],
    "properties": {"object": {"const": "outthink.plan"}, "tokens": {"type": "integer", "minimum": 0}},
}
CONFIGURED: dict[str, Any] = {
    "type": "object",
    "required": ["type"],
    "additionalProperties": False,
    "properties": {"type": {"type": "string", "description": "A scorer of the server's settings."}},
}
EVENTS: dict[str, Any] = {"text/event-stream": {}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error replies of a route. Every route may refuse a key, and everybody when the server goes down."""
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": MESSAGES[status], "content": content} for status in sorted({401, 503, *statuses})}


def replies(*schemas: dict[str, Any], events: bool = False) -> dict[int | str, dict[str, Any]]:
    """A good reply of one of these shapes, and as events where it may be streamed."""
    content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}}}
    return {200: {"description": "The reply.", "content": content | (EVENTS if events else {})}}


def takes(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON body of this shape, for `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def chat_request() -> dict[str, Any]:
    """The body of a chat completion; a strategy is the name of a type, or an object with its parameters."""
    schema = flat(ChatRequest.model_json_schema())
    types = [with_scorers(parameters(entry)) for entry in strategy.catalogue()]
    named = {"type": "string", "enum": [entry["type"] for entry in strategy.catalogue()]}
    schema["properties"]["strategy"] = {"anyOf": [named, *types, {"type": "null"}], "title": "Strategy"}
    return schema


def parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an object of this type may say."""
    return flat(entry["parameters"]) | {"required": ["type"]}


def with_scorers(schema: dict[str, Any]) -> dict[str, Any]:
    """A strategy's parameters with those of the scorer that it may have; one of the settings has none."""
    if "scorer" in schema["properties"]:
        knob = schema["properties"]["scorer"]
        others = [member for member in knob["anyOf"] if member.get("type") != "object"]
        knob["anyOf"] = [*others, *map(parameters, scorer.catalogue()), CONFIGURED]
    return schema


def flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its definitions inlined, since OpenAPI keeps them elsewhere."""
    definitions = schema.pop("$defs", {})
    return {name: inline_references(value, definitions) for name, value in schema.items()}


def inline_references(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if name := str(schema.get("$ref", "")).removeprefix("#/$defs/"):
            return inline_references(definitions[name], definitions)
        return {key: inline_references(value, definitions) for key, value in schema.items()}
    return [inline_references(value, definitions) for value in schema] if isinstance(schema, list) else schema


FORWARDED: Iterable[int] = (400, 404, 413, 429, 502, 504)
"""What a route that passes through to the engine may answer."""

FOR_ADMINS = errors(400, 403, 404, 413, 429)
"""What the routes of files and jobs may answer."""
