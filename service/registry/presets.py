"""Presets: strategies with a name, for clients that can only choose a model (`smollm2@self_consistency`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from service.errors import ApiError, invalid
from service.schema import Strict
from service.wire.chat import BudgetSpec, Include
from service.wire.strategy import build
from strategies import STRATEGIES
from strategies.session import Strategy

STOPS: dict[str, Any] = {"stop": {"rule": "adaptive"}}
VOTE: dict[str, Any] = {"type": "self_consistency", "samples": 16, **STOPS}
BEST: dict[str, Any] = {"type": "best_of_n", **STOPS}
ALIASES: dict[str, dict[str, Any]] = {
    "cot": {"strategy": "chain_of_thought"},
    "self_consistency": {"strategy": VOTE},
    "sc": {"strategy": VOTE},
    "best_of_n": {"strategy": BEST},
    "best_of_4": {"strategy": {**BEST, "samples": 4}},
    "best_of_16": {"strategy": {**BEST, "samples": 16}},
    "dvts": {"strategy": {"type": "beam_search", "trees": 4}},
}
"""Presets beside those of the strategies' own names, and in their place. Sampling stops when the vote is decided; that
of best-of-N only if the scorer likes the same answer best."""


class PresetSpec(Strict):
    """A `[presets.NAME]` table. `temperature` also replaces a caller's 0, which would make all samples equal."""

    strategy: str | dict[str, Any]
    temperature: float | None = Field(None, gt=0, le=2)
    budget: BudgetSpec | None = None
    include: list[Include] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preset:
    """`explicit`: made from a request's own `strategy`, whose caller is told of mistakes that a preset would mend."""

    name: str
    strategy: Strategy
    temperature: float | None = None
    budget: BudgetSpec | None = None
    include: tuple[Include, ...] = ()
    explicit: bool = False


def load(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Preset]:
    """Every strategy as it is by default, the aliases, and the presets of the settings, which win.

    Raise ValueError that names the bad one.
    """
    defaults = {type_: {"strategy": type_} for type_ in STRATEGIES}
    return {name: load_preset(name, table) for name, table in {**defaults, **ALIASES, **tables}.items()}


def load_preset(name: str, table: Mapping[str, Any]) -> Preset:
    try:
        spec = PresetSpec.model_validate(dict(table))
        strategy = build(spec.strategy)
    except ValidationError as error:
        raise ValueError(f"presets.{name}: {invalid(error).message}") from error
    except ApiError as error:
        raise ValueError(f"presets.{name}: {error.message}") from error
    return Preset(name, strategy, spec.temperature, spec.budget, tuple(spec.include))
