"""What can go wrong between the service and vLLM, as the errors that the rest of the program knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import orjson

from strategies.errors import EngineError, EngineNonsense, EngineRefused, EngineUnavailable
from strategies.types import Ids

MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError)
"""What reading something of an unknown shape raises."""


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Raise EngineNonsense where an answer has not the shape of what was asked for."""
    try:
        yield
    except MISSHAPEN as error:
        raise EngineNonsense(f"the engine was asked for {what} and answered in an unknown shape: {error!r}") from error


def require(value: Any, *types: type) -> Any:
    """The value, which has exactly one of these types."""
    if type(value) not in types:
        raise TypeError(f"{value!r:.80} is not {' or '.join(of.__name__ for of in types)}")
    return value


def token_ids(value: Sequence[Any]) -> Ids:
    ids = tuple(value)
    for one in ids:
        require(one, int)
    return ids


def inside(value: Any, *names: str) -> dict[str, Any]:
    """The object at this path, empty where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def hopeless(error: EngineError) -> bool:
    """Whether a new try would end the same. A 404 need not: one replica may not have seen a new adapter yet."""
    return isinstance(error, EngineRefused) and error.status != 404


def parse(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise EngineNonsense("the engine answered something that is not JSON") from error
    if not isinstance(value, dict):
        raise EngineNonsense("the engine answered JSON that is not an object")
    return value


def message_of(content: bytes) -> tuple[str, dict[str, Any]]:
    """The message of an error body, which may be vLLM's JSON, a router's plain text or a proxy's page."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode(errors="replace")[:500].strip(), {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    error = error if isinstance(error, dict) else {"message": str(error)}
    return str(error.get("message") or error.get("detail") or body)[:2000], error


def check(status: int, content: bytes) -> None:
    """Raise the error that a status stands for."""
    if 200 <= status < 300:
        return
    message, error = message_of(content)
    param, code = (error.get(name) if isinstance(error.get(name), str) else None for name in ("param", "code"))
    if status in (429, 503):
        raise EngineUnavailable(f"the engine is busy or down ({status}): {message}", accepted=False)
    if status >= 500 or status < 400:
        raise EngineNonsense(f"the engine failed ({status}): {message}")
    raise EngineRefused(message, status, param, code)


def in_stream(error: object) -> EngineError:
    """The error that a line of a stream stands for: a dead engine more often than a bad request."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    message, code, param = str(fields.get("message")), fields.get("code"), fields.get("param")
    if isinstance(code, int) and 400 <= code < 500:
        return EngineRefused(message, code, param if isinstance(param, str) else None)
    return EngineUnavailable(f"the engine failed in mid-stream: {message}")


@contextmanager
def translate_http() -> Iterator[None]:
    """The one place where errors of HTTP become ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise EngineUnavailable(f"the engine cannot be reached: {error}", accepted=False) from error
    except (TimeoutError, httpx.TimeoutException) as error:
        raise EngineUnavailable(f"the engine did not answer in time ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise EngineUnavailable(f"the engine cannot be reached: {error or type(error).__name__}") from error
    except aiohttp.ClientError as error:  # what the transport does not translate
        raise EngineNonsense(f"the engine did not answer in HTTP: {error}") from error
