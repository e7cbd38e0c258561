"""Whether a text matches a regular expression or a JSON schema. All of it runs in a worker: both may take for ever.

Schemas come as JSON, since an object that is nested too deeply to be pickled would end the pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def check_regex(pattern: str) -> str | None:
    """What is wrong with a pattern; None when it can be used."""
    import regex

    try:
        regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        return f"is no regular expression: {error}"
    return None


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found anywhere in a text."""
    import regex

    return regex.search(pattern, text) is not None


def check_schema(text: str) -> str | None:
    """What is wrong with a schema; None when it can be used."""
    from jsonschema import SchemaError

    try:
        schema = json.loads(text)
        if outside := next(references(schema), None):
            return f"refers to {outside[:100]!r}; only references within the schema (#…) are followed"
        validator(schema).check_schema(schema)
    except SchemaError as error:
        return f"is no JSON schema: {error.json_path}: {error.message[:200]}"
    except RecursionError:
        return "is nested too deeply"
    return None


def conforms(schema: str, text: str) -> bool | str:
    """Whether a text is JSON that a schema allows; a text that says why the schema cannot tell."""
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(text, parse_constant=no_json)
    except (ValueError, RecursionError):
        return False
    try:
        rules = json.loads(schema)
        return bool(validator(rules)(rules, registry=REGISTRY).is_valid(value))
    except Unresolvable as error:
        return f"the schema refers to what is not there: {error.ref[:100]}"
    except RecursionError:
        return "the schema, or the sample, is nested too deeply"


def validator(schema: Mapping[str, Any]) -> Any:
    """The class of the draft that a schema names; with a registry of its own it fetches nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    return validator_for(schema, default=Draft202012Validator)


def references(schema: object) -> Iterator[str]:
    """The references that lead out of a schema."""
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            if (
                name in ("$ref", "$dynamicRef", "$recursiveRef")
                and isinstance(value, str)
                and not value.startswith("#")
            ):
                yield value
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def no_json(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")
