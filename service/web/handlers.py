"""Every error leaves in OpenAI's shape: the handlers of what routes raise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException

from service.errors import ApiError, path, translate
from service.jobs import BadCursor, Conflict, Missing
from service.web.bodies import ClientGone
from strategies.errors import StrategyError

log = logging.getLogger(__name__)
E = TypeVar("E", bound=Exception)


def strategy_error(request: Request, error: StrategyError) -> ApiError:
    return translate(error)


def http_error(request: Request, error: HTTPException) -> ApiError:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return ApiError(error.status_code, message, None, "not_found" if error.status_code == 404 else None)


def validation_error(request: Request, error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    param = path(first["loc"][1:])
    return ApiError(400, f"{param}: {first['msg']}", param, "invalid_value")


def missing(request: Request, error: Missing) -> ApiError:
    return ApiError(404, str(error), None, "not_found")


def bad_cursor(request: Request, error: BadCursor) -> ApiError:
    return ApiError(400, f"after: {error}", "after", "invalid_value")


def conflict(request: Request, error: Conflict) -> ApiError:
    return ApiError(400, str(error), None, "conflict")  # not 409, which SDKs would try again


def no_database(request: Request, error: OperationalError) -> ApiError:
    log.error("the database does not answer: %s", error)
    return ApiError(503, "the database does not answer", None, "database_unavailable")


def bad_data(request: Request, error: DataError) -> ApiError:
    return ApiError(400, f"the database cannot hold a value of this request: {error.orig}", None, "invalid_value")


def unexpected(request: Request, error: Exception) -> ApiError:
    return ApiError(500, "the server failed; its log has the request id", None, "internal_error")


def add_handlers(app: FastAPI) -> None:
    add(app, ApiError, lambda request, error: error)
    add(app, StrategyError, strategy_error)
    add(app, HTTPException, http_error)
    add(app, RequestValidationError, validation_error)
    add(app, Missing, missing)
    add(app, BadCursor, bad_cursor)
    add(app, Conflict, conflict)
    add(app, OperationalError, no_database)
    add(app, DataError, bad_data)
    add(app, Exception, unexpected)
    app.add_exception_handler(ClientGone, client_gone)


def add(app: FastAPI, kind: type[E], to_api_error: Callable[[Request, E], ApiError]) -> None:
    async def handle(request: Request, error: Exception) -> Response:
        assert isinstance(error, kind)
        return to_api_error(request, error).response()

    app.add_exception_handler(kind, handle)


async def client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
