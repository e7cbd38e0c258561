"""The scorers that every server has, as requests name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.wire import knobs
from strategies.scorers import SCORERS
from strategies.types import NamedScorer

PARAM = "strategy.scorer"


def build(body: Mapping[str, Any]) -> NamedScorer:
    """The scorer whose type an object has; raise ApiError with the path of what is wrong."""
    return knobs.build(SCORERS[body["type"]], body, [PARAM])


def catalogue() -> list[dict[str, Any]]:
    """What /v1/strategies says of each."""
    return [
        {
            "type": scorer.type,
            "object": "scorer",
            "summary": scorer.summary,
            "cost": scorer.cost,
            "parameters": knobs.schema(scorer),
        }
        for scorer in SCORERS.values()
    ]
