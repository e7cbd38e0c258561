"""Validation and JSON schemas of what a request names by its `type`, made from the knobs of its class.

A new strategy or scorer needs nothing here: its dataclass is the only place where parameters, bounds and help are
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, is_dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError, create_model
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
    try:
        return cast(T, as_declared(checked, class_))
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


@cache
def nested(dataclass: type[Any]) -> type[BaseModel]:
    """The one model of a dataclass that stands in others."""
    return model_of(dataclass)


@cache
def member(dataclass: Any) -> type[BaseModel]:
    """The one model of a dataclass among others, which has to be named; a field of that name names it, too."""
    tag, *others = knobs(dataclass)
    if tag.default in [knob.name for knob in others]:
        return nested(dataclass)
    return model_of(dataclass, **{tag.name: (Literal.__getitem__(tag.default), Knob(**tag.metadata))})


def flatten(hint: Any) -> Any:
    """A knob's type with models in the place of the dataclasses in it."""
    parts = get_args(hint)
    if is_dataclass(hint):
        return nested(cast(Any, hint))
    if get_origin(hint) is tuple and parts[1:] == (...,):
        return tuple.__class_getitem__((flatten(parts[0]), ...))
    return one_of(parts) if parts and all(map(is_dataclass, parts)) else hint


def one_of(dataclasses: Sequence[Any]) -> Any:
    """A choice among dataclasses of knobs by the first knob, a `Literal` with a value for each.

    `{"any": […]}` stands for `{"rule": "any", "any": […]}`.
    """
    tag = knobs(dataclasses[0])[0].name
    models = {str(knobs(one)[0].default): member(one) for one in dataclasses}

    def chosen(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return None
        name = value.get(tag, next((name for name in models if name in value), None))
        return f"{tag}={name}" if name in [*models] else None

    members = tuple(Annotated[model, Tag(f"{tag}={name}")] for name, model in models.items())
    problem = f"must be an object whose `{tag}` is one of {', '.join(models)}"
    choice = Discriminator(chosen, custom_error_type="unknown_type", custom_error_message=problem)
    return Annotated[Union.__getitem__(members), choice]


def as_knob(field: Field[Any]) -> Any:
    default = ... if field.default is MISSING else field.default
    if is_dataclass(default):
        return Knob(asdict(cast(Any, default)), **field.metadata, validate_default=True)
    return Knob(default, **field.metadata)


def as_declared(value: Any, hint: Any) -> Any:
    """A checked value as its class declares it: models become their dataclasses."""
    parts = get_args(hint)
    if isinstance(value, tuple) and parts:
        return tuple(as_declared(one, parts[0]) for one in value)
    if not isinstance(value, BaseModel):
        return value
    [class_] = [one for one in parts or (hint,) if one.__name__ == type(value).__name__]
    hints = get_type_hints(class_)
    return class_(**{knob.name: as_declared(getattr(value, knob.name), hints[knob.name]) for knob in knobs(class_)})


def lenient(body: Mapping[str, Any], depth: int = 1) -> dict[str, Any]:
    """JSON has no tuples: lists stand for them, in the objects of a body too. It goes no deeper, whatever was sent."""
    return {name: as_tuple(value, depth) for name, value in body.items()}


def as_tuple(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping) and depth:
        return lenient(value, depth - 1)
    return tuple(value) if isinstance(value, list) else value
