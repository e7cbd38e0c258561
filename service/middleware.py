"""The gate that every request passes: its id, its key, its line in the log, its count in the metrics."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger("outthink.access")
request_id: ContextVar[str] = ContextVar("request_id", default="")

OPEN = ("/docs", "/openapi.json")
PROBES = ("/health", "/ready", "/metrics")
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Caller = Literal["client", "admin"]


@dataclass(slots=True)
class Seen:
    """What a route tells the gate about a request, for the log and the metrics."""

    caller: Caller = "client"
    strategy: str = "none"
    tokens: int | None = None


class Gate:
    """ASGI middleware, written by hand because streams must pass through it untouched."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        scope["request_id"] = given if SAFE_ID.fullmatch(given) else uuid4().hex
        request_id.set(scope["request_id"])
        seen = scope["seen"] = Seen()
        watch = Watch(scope, send)
        try:
            seen.caller = self.caller(scope["path"], headers)
            await self.app(scope, receive, watch.send)
        except ApiError as error:
            await error.response()(scope, receive, watch.send)
        finally:
            self.record(scope, seen, watch)

    def caller(self, path: str, headers: Headers) -> Caller:
        """Who asks; raise ApiError 401 for a wrong key. Without any key set all are admins."""
        if not self.settings.keys_needed:
            return "admin"
        key = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if matches(key, self.settings.admin_keys):
            return "admin"
        if matches(key, self.settings.api_keys) or path in PROBES or path.startswith(OPEN) or path == "/":
            return "client"
        problem = "the API key is wrong" if key else "an API key is needed: send `Authorization: Bearer KEY`"
        raise ApiError(401, problem, None, "invalid_api_key")

    def record(self, scope: Scope, seen: Seen, watch: Watch) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        seconds = time.monotonic() - watch.started
        self.metrics.requests.labels(route, seen.strategy, str(watch.status)).inc()
        if route in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
            self.metrics.latency.labels(seen.strategy).observe(seconds)
            if watch.first_byte is not None:
                self.metrics.first_byte.labels(seen.strategy).observe(watch.first_byte)
        facts = {"method": scope["method"], "route": route, "status": watch.status, "seconds": round(seconds, 3)}
        level = logging.DEBUG if route in PROBES else logging.INFO
        log.log(level, "request", extra={**facts, "strategy": seen.strategy, "tokens": seen.tokens})


class Watch:
    """Looks at a reply as it passes. A client that left before any reply is status 499, as nginx has it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.onward = send
        self.started = time.monotonic()
        self.status = 499
        self.first_byte: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.scope["request_id"]
        elif self.first_byte is None and message.get("body"):
            self.first_byte = time.monotonic() - self.started
        await self.onward(message)


def matches(key: str, keys: Iterable[SecretStr]) -> bool:
    """Compare with every key, in constant time."""
    found = [hmac.compare_digest(key.encode(), known.get_secret_value().encode()) for known in keys]
    return bool(key) and any(found)
