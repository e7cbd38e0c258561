"""Plain HTTP to one vLLM, or to a router in front of many: connections, time-outs, retries, and what it can do."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any

import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from service.engines.vllm.bodies import TOP_LOGPROBS
from service.engines.vllm.errors import check, inside, parse, parsing, require, translate_http
from service.engines.vllm.stream import split
from service.settings import Settings
from service.wire.lengths import LONGEST_TOKEN
from strategies.errors import EngineNonsense, EngineRefused, EngineUnavailable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1
"""Before the first new try; doubled for each further one, and stretched at random by up to as much again."""

SAID_SECONDS = 10.0
"""For what the engine says of itself, new tries included. It computes nothing for it, and somebody may be waiting."""

UNLIMITED = httpx.Limits(max_connections=0, keepalive_expiry=30)
"""Streams are as many as there are requests: admission limits them, not the connections."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the engine said of itself; None where it did not say, as behind some routers."""

    version: str | None = None
    paths: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[str]:
        """What this engine lacks, and what that means, for the log."""
        if not self.fields:
            return []
        wanted = {
            "stream_interval": "an event comes for every token, which costs the service more",
            "logprob_token_ids": f"judges read their grades among the {TOP_LOGPROBS} most likely tokens",
            "return_token_ids": "searches over steps cannot continue by token ids",
            "cache_salt": "prompts of all keys share its prefix cache",
        }
        lacks = [f"{name}: {meaning}" for name, meaning in wanted.items() if name not in self.fields]
        return lacks + ([] if "/tokenize" in self.paths else ["/tokenize: judges and searches over steps do not work"])


@asynccontextmanager
async def soon() -> AsyncIterator[None]:
    """Raise EngineUnavailable when the engine does not say something of itself within a few seconds."""
    with translate_http():
        async with asyncio.timeout(SAID_SECONDS):
            yield


class VllmClient:
    """Connections to one vLLM, or to a router in front of many.

    Time-outs: to connect (short: the engine is near), for the first byte (long: a request may queue), between bytes;
    none in total, because a long answer is not a fault. httpx speaks through aiohttp, whose parser is in C and hands
    over all that has arrived at once, where httpx's own hands over every event by itself at several times the cost.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.settings = settings
        self.capabilities = Capabilities()
        self.contexts: dict[str, int] = {}
        key = settings.engine_api_key.get_secret_value()
        self.http = httpx.AsyncClient(
            base_url=settings.engine_base,
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(
                settings.first_byte_seconds, connect=settings.connect_seconds, pool=settings.connect_seconds
            ),
            transport=transport or AiohttpTransport(limits=UNLIMITED, trust_env=False),
            trust_env=False,  # the engine is reached directly, whatever proxies the environment names
        )

    async def close(self) -> None:
        await self.http.aclose()

    @property
    def base_url(self) -> str:
        """Without `/v1`."""
        return self.settings.engine_base

    async def probe(self) -> Capabilities:
        """Ask the engine for its version, endpoints and fields. A router may not know: that is no error."""
        version = await self._ask("/version")
        described = await self._ask("/openapi.json")
        body = inside(described, "components", "schemas", "CompletionRequest", "properties")
        self.capabilities = Capabilities(version.get("version"), frozenset(inside(described, "paths")), frozenset(body))
        for lack in self.capabilities.missing:
            log.warning("the engine lacks %s", lack)
        return self.capabilities

    async def _ask(self, path: str) -> dict[str, Any]:
        """A JSON object, or an empty one where the engine has none to give."""
        try:
            return await self.json("GET", path)
        except (EngineRefused, EngineNonsense):
            return {}

    async def models(self) -> list[dict[str, Any]]:
        """The engine's own list of models; remembers the context of each."""
        async with soon():
            models: list[dict[str, Any]] = (await self.json("GET", "/v1/models")).get("data", [])
        with parsing("a list of models"):
            lengths = dict(map(name_and_length, models))
        base = next((length for length in lengths.values() if length), 0)
        self.contexts |= {name: length or base for name, length in lengths.items() if length or base}
        return models

    def check_length(self, model: str, characters: int) -> None:
        """Raise EngineRefused for a text that no context has room for: to tokenize one holds up all other requests."""
        context = self.contexts.get(model)
        if context and characters > context * LONGEST_TOKEN:
            raise EngineRefused(
                f"the model's maximum context length is {context} tokens; a text of {characters} characters is longer",
                400,
                code="context_length_exceeded",
            )

    async def healthy(self) -> bool:
        """Whether requests would be answered: `/readiness` of a router, `/health` of vLLM, else the list of models."""
        for path in ("/readiness", "/health", "/v1/models"):
            try:
                response = await self.http.get(path, timeout=self.settings.connect_seconds)
            except httpx.HTTPError:
                return False
            if response.status_code not in (404, 405):
                return response.status_code == 200
        return False

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Call an endpoint that generates nothing, so it may be tried again."""
        async for last in self.attempts():
            try:
                with translate_http():
                    content = None if body is None else orjson.dumps(body)
                    response = await self.http.request(method, path, content=content, headers=as_json(headers))
                check(response.status_code, response.content)
                return parse(response.content)
            except (EngineUnavailable, EngineNonsense):
                if last:
                    raise
        raise AssertionError("attempts() ends with its last try")

    async def attempts(self) -> AsyncIterator[bool]:
        """Yield once for every try, with a growing pause between; true for the last."""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS * 2**attempt * (1 + random.random()))
            yield attempt == self.settings.retries

    @asynccontextmanager
    async def open(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and yield the response, unread; closing it aborts the request in the engine."""
        response = await self.send(method, path, content, as_json(headers))
        try:
            yield response
        finally:
            await response.aclose()

    async def send(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        """Send a request, trying again while no connection was made; nothing has reached the engine then."""
        async for last in self.attempts():
            request = self.http.build_request(method, path, content=content, headers=headers)
            try:
                with translate_http():
                    return await self.http.send(request, stream=True)
            except EngineUnavailable as error:
                if last or error.accepted:
                    raise
        raise AssertionError("attempts() ends with its last try")

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        """The bytes of a reply as they come; EngineUnavailable when they stop coming."""
        limit = self.settings.first_byte_seconds
        raw = response.aiter_raw()
        while True:
            with translate_http():
                async with asyncio.timeout(limit):
                    chunk = await anext(raw, b"")
            if not chunk:
                return
            yield chunk
            limit = self.settings.between_bytes_seconds

    async def events(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[list[bytes]]:
        """Stream the data of server-sent events, all that came at once in one list; no retries."""
        async with self.open("POST", path, orjson.dumps(body), headers) as response:
            if not response.is_success:
                with translate_http():
                    check(response.status_code, await response.aread())
            async with aclosing(split(self.chunks(response))) as events:
                async for said in events:
                    yield said


def name_and_length(model: dict[str, Any]) -> tuple[str, int | None]:
    return require(model["id"], str), require(model.get("max_model_len"), int, NoneType)


def as_json(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {"Content-Type": "application/json", **(headers or {})}
