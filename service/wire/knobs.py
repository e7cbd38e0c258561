"""Validation and JSON schemas of what a request names by its `type`, made from the knobs of its class.

A new strategy or scorer needs nothing here: its dataclass is the only place where parameters, bounds and help are
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic import Field as Knob

from service.errors import ApiError, invalid
from strategies.errors import InvalidParameter
from strategies.knobs import knobs


class Typed(Protocol):
    """What a request names by a type: a dataclass of knobs."""

    type: ClassVar[str]


T = TypeVar("T", bound=Typed)


def as_body(requested: str | Mapping[str, Any]) -> dict[str, Any]:
    """A type alone stands for an object with nothing else."""
    return {"type": requested} if isinstance(requested, str) else dict(requested)


def build(class_: type[T], body: Mapping[str, Any], where: Sequence[str]) -> T:
    """Make one of its knobs in a request; raise ApiError with the path, from `where` on, of what is wrong."""
    try:
        checked = spec(class_).model_validate(lenient(body))
    except ValidationError as error:
        raise invalid(error, where) from error
    hints = get_type_hints(class_)
    values = {knob.name: plain(getattr(checked, knob.name), hints[knob.name]) for knob in knobs(class_)}
    try:
        return class_(**values)
    except InvalidParameter as error:
        raise ApiError(400, str(error), error.param, error.code) from error


def schema(class_: type[Typed]) -> dict[str, Any]:
    """Its parameters as JSON schema."""
    return spec(class_).model_json_schema()


@cache
def spec(class_: type[Typed]) -> type[BaseModel]:
    """The pydantic model of its parameters: unknown ones are refused, and nothing is converted."""
    return model_of(class_, type=(Literal.__getitem__(class_.type), Knob(class_.type)))


def model_of(dataclass: type[Any], **more: Any) -> type[BaseModel]:
    """The pydantic model of a dataclass of knobs, nested ones included."""
    hints = get_type_hints(dataclass)
    members = {knob.name: (flatten(hints[knob.name]), as_knob(knob)) for knob in knobs(dataclass)}
    config = ConfigDict(extra="forbid", strict=True, frozen=True)
    doc = (dataclass.__doc__ or "").strip()
    model: type[BaseModel] = create_model(dataclass.__name__, __config__=config, __doc__=doc, **{**members, **more})
    return model


def flatten(hint: Any) -> Any:
    return model_of(cast(Any, hint)) if is_dataclass(hint) else hint


def as_knob(field: Field[Any]) -> Any:
    default = ... if field.default is MISSING else field.default
    if is_dataclass(default):
        return Knob(asdict(cast(Any, default)), **field.metadata, validate_default=True)
    return Knob(default, **field.metadata)


def plain(value: Any, hint: Any) -> Any:
    """A knob's value as its class has it: a nested model becomes its dataclass."""
    return hint(**value.model_dump()) if isinstance(value, BaseModel) else value


def lenient(body: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples: lists stand for them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
