"""Requests without a strategy: vLLM's own, bytes in and bytes out, cancelled when the client leaves.

Two things are mended on the way: errors get OpenAI's shape, and a stream that was cut ends in an error instead of
looking like a success.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response

from service.context import Context
from service.engines.vllm.errors import check, in_stream, inside, message_of, parse
from service.errors import ApiError, translate
from service.web.bodies import Stream, unless_gone
from service.web.middleware import RequestInfo
from service.web.rate_limits import Spending, asked_tokens, plain_tokens
from strategies.errors import EngineError, EngineNonsense, EngineUnavailable

ENDS_WITH_DONE = frozenset({"/v1/chat/completions", "/v1/completions"})
PRIORITY = "X-Vllm-Priority"
BEFORE_SEARCHES = "-1"
"""Lower is earlier and 0 is what branches of searches have; an engine that serves in order of arrival ignores it."""

SALTED = frozenset({*ENDS_WITH_DONE, "/v1/responses", "/v1/embeddings"})
"""What goes through the prefix cache."""

DATA_PARALLEL = "x-data-parallel-rank"


async def forward(
    request: Request, context: Context, seen: RequestInfo, path: str, body: Mapping[str, Any], raw: bytes, model: str
) -> Response:
    """Send a body on to vLLM and return its reply. The bytes are the caller's unless the model had to be resolved, or
    keys keep the prefix cache apart."""
    salt = context.salts.salt(seen.account.name, body.get("cache_salt")) if path in SALTED else ""
    decided = {"model": model} | ({"cache_salt": salt} if salt else {})
    content = raw if body.items() >= decided.items() else orjson.dumps({**body, **decided})
    stack = AsyncExitStack()
    sent = headers(request, seen, body)
    spending = stack.enter_context(seen.account.spending(plain_tokens(body)))
    try:
        backend = await unless_gone(request, context.shutdown.within_deadline(context.backends.serving(model)))
        client = stack.enter_context(backend.request())
        opened = client.open("POST", path, content, sent)
        response = await unless_gone(request, context.shutdown.within_deadline(stack.enter_async_context(opened)))
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            source = stream(context, client.chunks(response), stack, path, Tally(spending, asked_tokens(body)))
            return Stream(source, await anext(source))
        content = await unless_gone(request, context.shutdown.within_deadline(read(client.chunks(response))))
        check(response.status_code, content)
        spoken = response.headers.get("content-type", "").startswith("application/json")  # embeddings may be bytes
        usage = inside(parse(content), "usage") if spoken else {}
        seen.tokens, spending.tokens = count(usage, "completion_tokens"), count(usage, "total_tokens")
        context.metrics.tokens.labels("none", "policy", "returned").inc(seen.tokens)
    except BaseException:
        await stack.aclose()
        raise
    await stack.aclose()
    return Response(content, response.status_code, media_type=response.headers.get("content-type"))


def headers(request: Request, seen: RequestInfo, body: Mapping[str, Any]) -> dict[str, str]:
    """The few headers that go along, never the caller's key; and the priority, unless an admin chose one."""
    kept = {"X-Request-Id": request.scope["request_id"], "X-Session-ID": request.scope["request_id"]}
    if body.get("priority") is None:
        kept[PRIORITY] = BEFORE_SEARCHES
    rank = request.headers.get(DATA_PARALLEL)
    if rank is not None and seen.caller != "admin":
        raise ApiError(400, f"{DATA_PARALLEL} steers the engine and needs an admin key", None, "unsupported_parameter")
    return kept if rank is None else kept | {DATA_PARALLEL: rank}


async def read(chunks: AsyncGenerator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def stream(
    context: Context, chunks: AsyncGenerator[bytes], stack: AsyncExitStack, path: str, tally: Tally
) -> AsyncGenerator[bytes]:
    """First nothing, from where on the stack is this generator's; then whole events as they come. An error or a cut
    ends the stream with OpenAI's error and no `[DONE]`."""
    rest, tail = b"", b""
    async with stack:
        yield b""
        try:
            while chunk := await context.shutdown.within_deadline(anext(chunks, b"")):
                events, found, rest = (rest + chunk).rpartition(b"\n\n")
                if not found:
                    continue
                if (start := error_at(events)) is not None:
                    yield events[:start]
                    raise failed(events[start:])
                tally.take(events)
                tail = events.rpartition(b"\n\n")[2] if b"[DONE]" not in events else tail + events
                yield events + found
            if path in ENDS_WITH_DONE and b"[DONE]" not in tail:
                raise EngineUnavailable("the engine's stream ended before its end", generated=True)
        except EngineError as error:
            yield translate(error).event()
        except ApiError as error:
            yield error.event()


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


class Tally:
    """Counts what a stream costs as it passes: what it says of its usage, else an event a token."""

    def __init__(self, spending: Spending, prompt: int) -> None:
        self.spending = spending
        self.spending.tokens = prompt
        self.told = False

    def take(self, events: bytes) -> None:
        at = events.rfind(b'"usage":{')
        if at >= 0:
            line = events[events.rfind(b"data: ", 0, at) + len(b"data: ") :].partition(b"\n")[0]
            self.spending.tokens = count(usage_of(line), "total_tokens") or self.spending.tokens
            self.told = True
        elif not self.told:
            self.spending.tokens += events.count(b"data: {")


def usage_of(content: bytes) -> dict[str, Any]:
    """What a reply, or an event of a stream, says of its tokens; empty when it says nothing."""
    try:
        body = parse(content)
    except EngineNonsense:
        return {}
    return inside(body, "usage") or inside(body, "response", "usage")


def count(usage: Mapping[str, Any], what: str) -> int:
    """A number of tokens; what is not one counts nothing."""
    value = usage.get(what)
    return value if isinstance(value, int) and value > 0 else 0
