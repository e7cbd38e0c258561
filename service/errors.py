"""Errors as OpenAI words them: one table from what happened to status and body."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi.responses import Response
from pydantic import ValidationError

from strategies.errors import (
    BudgetSpent,
    DeadlineExceeded,
    EngineError,
    EngineNonsense,
    EngineRefused,
    EngineUnavailable,
    InvalidParameter,
    ScorerError,
    StrategyError,
)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
UNREAD = frozenset({401, 403, 413, 415})
"""Answered before the body was read to its end, which may never come: the connection is closed."""

MEMBER = re.compile(r"(?:str|int|float|bool|dict|list|tuple|none)$|(?:dict|list|tuple|literal)\[|constrained-|\w+=")
RETRY = {429: 2, 503: 5}


@dataclass(eq=False)  # not frozen: raising an exception writes to it
class ApiError(Exception):
    """What a client is told. `retry`: False tells SDKs not to bill the same request again."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry: bool | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = dict(self.headers)
        if self.status in RETRY:
            headers.setdefault("Retry-After", str(RETRY[self.status]))
        if self.status in UNREAD:
            headers["Connection"] = "close"
        if self.retry is False:
            headers["x-should-retry"] = "false"
        return Response(orjson.dumps(self.body), self.status, headers, "application/json")

    def event(self) -> bytes:
        """The last line of a stream that failed: no `event:` line, no `[DONE]` after it."""
        return b"data: " + orjson.dumps(self.body) + b"\n\n"


def translate(error: StrategyError) -> ApiError:
    """The answer to a run that failed."""
    match error:
        case InvalidParameter():
            return ApiError(400, str(error), error.param, error.code)
        case EngineRefused():
            return translate_refusal(error)
        case DeadlineExceeded() | BudgetSpent():
            return ApiError(504, str(error), "budget", "deadline_exceeded", retry=False)
        case EngineUnavailable():
            headers = {"Retry-After": str(min(max(error.retry_after, 1), 120))}
            return ApiError(503, str(error), None, "engine_unavailable", may_retry(error), headers)
        case EngineNonsense():
            return ApiError(502, str(error), None, "engine_error", may_retry(error))
        case ScorerError():
            return ApiError(502, str(error), "strategy.scorer", "scorer_error", retry=False)
        case _:
            return ApiError(502, str(error), None, "engine_error")


def may_retry(error: EngineError) -> bool | None:
    return False if error.generated else None


def translate_refusal(error: EngineRefused) -> ApiError:
    """What vLLM said of a bad request, with OpenAI's code for a prompt that is too long."""
    if "maximum context length" in str(error):
        return ApiError(400, str(error), "messages", "context_length_exceeded")
    code = error.code if isinstance(error.code, str) else None
    param = error.param.removeprefix("body.") if error.param else None
    described = re.search(r"'msg': '([^']*)'", str(error))  # vLLM's list of pydantic errors, written out
    message = f"{param}: {described[1]}" if described and param else str(error)
    return ApiError(error.status if error.status != 422 else 400, message, param, code)


def invalid(error: ValidationError, prefix: Sequence[str] = ()) -> ApiError:
    """The first thing that is wrong with a body, by its path; of a union, what each of its members wanted."""
    errors = error.errors(include_url=False, include_context=False)
    first = errors[0]
    param = path((*prefix, *first["loc"]))
    here = [e["msg"].removeprefix("Value error, ") for e in errors if path((*prefix, *e["loc"])) == param]
    sent = first.get("input")
    shown = f", not {sent!r}" if isinstance(sent, (str, int, float, bool)) and len(repr(sent)) < 80 else ""
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(first["type"])
    problem = f"{', or '.join(dict.fromkeys(here))}{shown}"
    return ApiError(400, f"{param}: {problem}" if param else problem, param or None, code or "invalid_value")


def path(loc: Sequence[str | int]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`; the names that pydantic gives a union's members are left out."""
    parts = [part for part in loc if isinstance(part, int) or not MEMBER.match(part)]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")
