"""Validation and JSON schemas of strategies, made from the knobs of their classes.

A new strategy needs nothing here: its dataclass is the only place where parameters, bounds and help are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import cache
from typing import Any, Literal, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic import Field as Knob

from service.errors import ApiError, invalid
from strategies import STRATEGIES
from strategies.errors import InvalidParameter
from strategies.session import Strategy


@cache
def spec(type_: str) -> type[BaseModel]:
    """The pydantic model of a strategy's parameters: unknown ones are refused, and nothing is converted."""
    return model_of(STRATEGIES[type_], type=(Literal.__getitem__(type_), Knob(type_)))


def model_of(dataclass: type[Any], **more: Any) -> type[BaseModel]:
    """The pydantic model of a dataclass of knobs, nested ones included."""
    hints = get_type_hints(dataclass)
    knobs = {f.name: (nested(hints[f.name]), as_knob(f)) for f in fields(dataclass)}
    config = ConfigDict(extra="forbid", strict=True, frozen=True)
    doc = (dataclass.__doc__ or "").strip()
    model: type[BaseModel] = create_model(dataclass.__name__, __config__=config, __doc__=doc, **{**knobs, **more})
    return model


def nested(hint: Any) -> Any:
    return model_of(cast(Any, hint)) if is_dataclass(hint) else hint


def as_knob(field: Field[Any]) -> Any:
    default = ... if field.default is MISSING else field.default
    if is_dataclass(default):
        return Knob(asdict(cast(Any, default)), **field.metadata, validate_default=True)
    return Knob(default, **field.metadata)


def build(requested: str | Mapping[str, Any]) -> Strategy:
    """The strategy that a request names, by type or as an object; raise ApiError with the path of what is wrong."""
    body = {"type": requested} if isinstance(requested, str) else dict(requested)
    type_ = body.get("type")
    if not isinstance(type_, str) or type_ not in STRATEGIES:
        named = "strategy" if isinstance(requested, str) else "strategy.type"
        allowed = ", ".join(STRATEGIES)
        problem = f"strategy.type is missing; it is one of {allowed}" if type_ is None else None
        raise ApiError(
            400, problem or f"there is no strategy {type_!r}; there are {allowed}", named, "unknown_strategy"
        )
    try:
        checked = spec(type_).model_validate(lenient(body))
    except ValidationError as error:
        raise invalid(error, ("strategy",)) from error
    hints = get_type_hints(STRATEGIES[type_])
    values = {name: plain(getattr(checked, name), hints[name]) for name in type(checked).model_fields if name != "type"}
    try:
        return STRATEGIES[type_](**values)
    except InvalidParameter as error:
        raise ApiError(400, str(error), error.param, error.code) from error


def plain(value: Any, hint: Any) -> Any:
    """A knob's value as its strategy has it: a nested model becomes its dataclass."""
    return hint(**value.model_dump()) if isinstance(value, BaseModel) else value


def lenient(body: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples: lists stand for them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}


def describe(strategy: Strategy) -> dict[str, Any]:
    """A strategy as the reply shows it: its type and every parameter."""
    return {"type": strategy.type, **asdict(cast(Any, strategy))}


def catalogue() -> list[dict[str, Any]]:
    """What /v1/strategies lists."""
    return [
        {
            "type": strategy.type,
            "object": "strategy",
            "summary": strategy.summary,
            "paper": strategy.paper,
            "cost": strategy.cost,
            "default_temperature": strategy.temperature_default,
            "unsupported": sorted(strategy.unsupported),
            "parameters": spec(strategy.type).model_json_schema(),
        }
        for strategy in STRATEGIES.values()
    ]
