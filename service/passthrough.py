"""Requests without a strategy: vLLM's own, bytes in and bytes out, cancelled when the client leaves.

Two things are mended on the way: errors get OpenAI's shape, and a stream that was cut ends in an error instead of
looking like a success.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
from fastapi import Request
from fastapi.responses import Response

from service.context import Context
from service.engines.vllm import check, in_stream, inside, message_of, parse
from service.errors import ApiError, translate
from service.http import Stream, unless_gone
from service.middleware import Seen
from strategies.errors import EngineError, EngineUnavailable

ENDS_WITH_DONE = frozenset({"/v1/chat/completions", "/v1/completions"})
DATA_PARALLEL = "x-data-parallel-rank"


async def forward(
    request: Request, context: Context, seen: Seen, path: str, body: Mapping[str, Any], raw: bytes, model: str
) -> Response:
    """Send a body on to vLLM and return its reply. The bytes are the caller's unless the model had to be resolved."""
    content = raw if body.get("model") == model else orjson.dumps({**body, "model": model})
    stack = AsyncExitStack()
    opened = context.client.open("POST", path, content, headers(request, seen))
    try:
        response = await unless_gone(request, stack.enter_async_context(opened))
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return Stream(stream(context, response, stack, path, seen))
        content = await unless_gone(request, read(context, response))
    except BaseException:
        await stack.aclose()
        raise
    await stack.aclose()
    check(response.status_code, content)
    if response.headers.get("content-type", "").startswith("application/json"):  # embeddings may be bytes
        count(context, seen, content)
    return Response(content, response.status_code, media_type=response.headers.get("content-type"))


def headers(request: Request, seen: Seen) -> dict[str, str]:
    """The few headers that go along: never the caller's key."""
    kept = {"X-Request-Id": request.scope["request_id"], "X-Session-ID": request.scope["request_id"]}
    rank = request.headers.get(DATA_PARALLEL)
    if rank is not None and seen.caller != "admin":
        raise ApiError(400, f"{DATA_PARALLEL} steers the engine and needs an admin key", None, "unsupported_parameter")
    return kept if rank is None else kept | {DATA_PARALLEL: rank}


async def read(context: Context, response: httpx.Response) -> bytes:
    return b"".join([chunk async for chunk in context.client.chunks(response)])


async def stream(
    context: Context, response: httpx.Response, stack: AsyncExitStack, path: str, seen: Seen
) -> AsyncGenerator[bytes]:
    """Whole events as they come. An error or a cut ends the stream with OpenAI's error and no `[DONE]`."""
    rest, tail = b"", b""
    async with stack:
        try:
            async for chunk in context.client.chunks(response):
                events, found, rest = (rest + chunk).rpartition(b"\n\n")
                if not found:
                    continue
                if (start := error_at(events)) is not None:
                    yield events[:start]
                    raise failed(events[start:])
                tail = events.rpartition(b"\n\n")[2] if b"[DONE]" not in events else tail + events
                yield events + found
            if path in ENDS_WITH_DONE and b"[DONE]" not in tail:
                raise EngineUnavailable("the engine's stream ended before its end", generated=True)
        except EngineError as error:
            yield translate(error).event()


def error_at(events: bytes) -> int | None:
    """Where the first event that is an error begins."""
    if events.startswith(b'data: {"error"'):
        return 0
    found = events.find(b'\n\ndata: {"error"')
    return None if found < 0 else found + 2


def failed(events: bytes) -> EngineError:
    first = events.split(b"\n\n")[0].removeprefix(b"data: ")
    _, error = message_of(first)
    return in_stream(error or first.decode(errors="replace"))


def count(context: Context, seen: Seen, content: bytes) -> None:
    """Count the tokens of a reply that says how many they were; raise EngineNonsense when it is no JSON object."""
    tokens = inside(parse(content), "usage").get("completion_tokens")
    if isinstance(tokens, int) and tokens >= 0:
        seen.tokens = tokens
        context.metrics.tokens.labels("none", "policy", "returned").inc(tokens)
