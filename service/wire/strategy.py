"""Strategies as requests name them and as replies show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from service.errors import ApiError
from service.wire import knobs
from strategies import STRATEGIES
from strategies.session import Strategy

PARAM = "strategy"


def find(requested: str | Mapping[str, Any]) -> type[Strategy]:
    """The class of the strategy that a request names, by type or as an object; raise ApiError where there is none."""
    type_ = knobs.as_body(requested).get("type")
    if isinstance(type_, str) and type_ in STRATEGIES:
        return STRATEGIES[type_]
    named = PARAM if isinstance(requested, str) else f"{PARAM}.type"
    allowed = ", ".join(STRATEGIES)
    problem = f"strategy.type is missing; it is one of {allowed}" if type_ is None else None
    raise ApiError(400, problem or f"there is no strategy {type_!r}; there are {allowed}", named, "unknown_strategy")


def build(requested: str | Mapping[str, Any]) -> Strategy:
    """The strategy that a request names; raise ApiError with the path of what is wrong."""
    return knobs.build(find(requested), knobs.as_body(requested), [PARAM])


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
            "parameters": knobs.schema(strategy),
        }
        for strategy in STRATEGIES.values()
    ]
