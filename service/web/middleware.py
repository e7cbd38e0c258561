"""The gate that every request passes: its id, its key, its line in the log, its count in the metrics."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Iterable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError
from service.settings import Settings
from service.web.bodies import discard
from service.web.metrics import Metrics
from service.web.origins import Origins
from service.web.rate_limits import Account
from service.web.shutdown import Shutdown, shutting_down

log = logging.getLogger("outthink.access")
request_id: ContextVar[str] = ContextVar("request_id", default="")

PROBES = ("/health", "/ready", "/metrics")
PUBLIC = frozenset({"/health", "/ready"})
"""Answered without a key; of the second only the status."""
OPENABLE = {"docs": {"/", "/docs", "/openapi.json"}, "metrics": {"/metrics"}, "ready": {"/ready"}}
"""What `OUTTHINK_OPEN_ENDPOINTS` adds, by its names."""
UNANSWERED = 499
"""The status of a request whose client left before any reply, as nginx has it."""

SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Caller = Literal["anyone", "client", "admin"]


@dataclass(slots=True)
class RequestInfo:
    """What a route tells the gate about a request, for the log and the metrics."""

    account: Account
    caller: Caller = "client"
    strategy: str = "none"
    tokens: int | None = None


class Gate:
    """ASGI middleware, written by hand because streams must pass through it untouched."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, shutdown: Shutdown) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.shutdown = shutdown
        self.clients = [self.account(name) for name in settings.client_names]
        self.admins = [self.account(name) for name in settings.admin_names]
        self.nobody = self.account("anyone")
        self.public = PUBLIC.union(*(OPENABLE[name] for name in settings.open_endpoints))
        self.origins = Origins(settings)

    def account(self, name: str) -> Account:
        return Account(name, self.settings.of_key(name), charged=self.metrics.key_tokens.labels(name).inc)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        scope["request_id"] = given if SAFE_ID.fullmatch(given) else uuid4().hex
        request_id.set(scope["request_id"])
        seen = scope["seen"] = RequestInfo(self.nobody, "anyone")
        watch = Watch(scope, send)
        try:
            await self.admit(scope, receive, headers)
            with nullcontext() if scope["path"] in PROBES else self.shutdown.request():
                await self.app(scope, receive, watch.send)
        except ApiError as error:
            await error.response()(scope, receive, watch.send)
        except asyncio.CancelledError:
            if not self.shutdown.expired:
                raise
            if watch.status == UNANSWERED:
                await shutting_down(retry=False).response()(scope, receive, watch.send)
        finally:
            self.record(scope, seen, watch)

    async def admit(self, scope: Scope, receive: Receive, headers: Headers) -> None:
        """Raise ApiError for a page of another site, and for a wrong key."""
        try:
            self.origins.check(scope["method"], scope["path"], headers)
            self.identify(scope["seen"], scope["path"], headers)
        except ApiError:
            await discard(receive, headers.get("content-length", ""))
            raise

    def identify(self, seen: RequestInfo, path: str, headers: Headers) -> None:
        """Note who asks; raise ApiError 401 for a wrong key. Without any key set all are admins."""
        key = headers.get("authorization", "").removeprefix("Bearer ").strip()
        client, admin = matching(key, self.settings.api_keys), matching(key, self.settings.admin_keys)
        if not self.settings.keys_needed:
            seen.caller = "admin"
        elif admin is not None:
            seen.caller, seen.account = "admin", self.admins[admin]
        elif client is not None:
            seen.caller, seen.account = "client", self.clients[client]
        elif ("/docs" if path.startswith("/docs/") else path) not in self.public:
            raise unauthorized(key)

    def record(self, scope: Scope, seen: RequestInfo, watch: Watch) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        seconds = time.monotonic() - watch.started
        self.metrics.requests.labels(route, seen.strategy, str(watch.status)).inc()
        if route in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
            self.metrics.latency.labels(seen.strategy).observe(seconds)
            if watch.first_byte is not None:
                self.metrics.first_byte.labels(seen.strategy).observe(watch.first_byte)
        facts = {"method": scope["method"], "route": route, "status": watch.status, "seconds": round(seconds, 3)}
        facts |= {"key": seen.account.name, "strategy": seen.strategy, "tokens": seen.tokens}
        log.log(logging.DEBUG if route in PROBES else logging.INFO, "request", extra=facts)


class Watch:
    """Looks at a reply as it passes."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.onward = send
        self.started = time.monotonic()
        self.status = UNANSWERED
        self.first_byte: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = {"x-request-id": self.scope["request_id"], **self.scope["seen"].account.headers}
            MutableHeaders(scope=message).update(ours)
        elif self.first_byte is None and message.get("body"):
            self.first_byte = time.monotonic() - self.started
        await self.onward(message)


def unauthorized(key: str) -> ApiError:
    problem = "the API key is wrong" if key else "an API key is needed: send `Authorization: Bearer KEY`"
    return ApiError(401, problem, None, "invalid_api_key")


def matching(key: str, keys: Iterable[SecretStr]) -> int | None:
    """Which of the keys it is; compared with every one, in constant time."""
    found = [hmac.compare_digest(key.encode(), known.get_secret_value().encode()) for known in keys]
    return found.index(True) if key and any(found) else None
