"""Parameters of strategies and scorers, declared once: the default, the bounds and a sentence of help.

The service builds its validation and its JSON schemas from them.
"""

from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any


def knob(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    min_length: int = 0,
    max_length: int = 0,
) -> Any:
    """A dataclass field that a caller may set, within bounds."""
    sizes = {"min_length": min_length or None, "max_length": max_length or None}
    bounds = {"ge": ge, "le": le, "gt": gt, "lt": lt, **sizes}
    metadata = {"description": help} | {name: value for name, value in bounds.items() if value is not None}
    return field(default=default, metadata=metadata)


def knobs(dataclass: type[Any]) -> list[Field[Any]]:
    """The fields that a caller may set; others are the service's."""
    return [field for field in fields(dataclass) if "description" in field.metadata]


def type_of(requested: str | Mapping[str, Any] | None) -> Any:
    """The type that a request names: alone, or in an object with its parameters."""
    return requested.get("type") if isinstance(requested, Mapping) else requested
