"""What every route needs of HTTP: bodies with a limit, replies that notice when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.errors import ApiError

log = logging.getLogger(__name__)

T = TypeVar("T")
SILENCE_SECONDS = 30.0
"""Between two parts of a request's body."""
EVENTS = "text/event-stream"
DISCARDED_BYTES, DISCARDED_SECONDS = 2**20, 1.0


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


class ReplyCut(Exception):
    """What a reply is made of has ended before its end; it has begun, so that only a broken connection can tell."""


async def read_object(request: Request, limit: int) -> tuple[dict[str, Any], bytes]:
    """The body as a JSON object, and its bytes as they came."""
    raw = await read_bytes(request, limit)
    try:
        body = orjson.loads(raw)
        orjson.dumps(body)  # what is nested too deeply to be sent on is refused here
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", None, "invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", None, "invalid_json")
    return body, raw


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be too large."""
    too_large = ApiError(413, f"the body is larger than {limit} bytes", None, "request_too_large")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    parts, size = [], 0
    stream = request.stream()
    while (part := await next_part(stream)) is not None:
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def next_part(stream: AsyncGenerator[bytes]) -> bytes | None:
    """The next part of a body, None at its end; raise ApiError when none comes: nobody holds a place for ever; and
    ClientGone when none can come any more."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(stream, None)
    except ClientDisconnect as error:
        raise ClientGone from error
    except TimeoutError as error:
        close = {"Connection": "close"}
        raise ApiError(400, "the body did not come", None, "incomplete_body", headers=close) from error


async def discard(receive: Receive, length: str) -> None:
    """Read a small body that is refused unread: else the refusal may be lost with the connection that it closes."""
    if length.isdecimal() and int(length) <= DISCARDED_BYTES:
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARDED_SECONDS):
                while (await receive()).get("more_body"):
                    pass


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it and raise ClientGone as soon as the client leaves."""
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(wait_until_gone(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await cancel(leaving)
        await cancel(task)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has cleaned up; its own error, if any, was seen elsewhere or is moot."""
    if task.done():
        return
    task.cancel()
    with suppress(asyncio.CancelledError, ClientGone):
        await task


class Stream(Response):
    """Sends bytes as they are made, and closes their source as soon as the client leaves, also between two of them.

    A source that holds something has begun already, and `first` is what it gave: closing one that has not begun runs
    nothing of it.
    """

    def __init__(
        self, source: AsyncGenerator[bytes], first: bytes = b"", status: int = 200, media_type: str = EVENTS
    ) -> None:
        self.source = source
        self.first = first
        self.status_code = status
        self.background = None
        self.media_type = media_type
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} if media_type == EVENTS else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.source):
            sending = asyncio.create_task(self.send(send))
            leaving = asyncio.create_task(wait_until_gone(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            finally:
                await cancel(leaving)
                await cancel(sending)

    async def send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        if self.first:
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
        try:
            async for part in self.source:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except ReplyCut as error:
            log.warning("a reply was cut: %s", error)
            return  # without its last part: the server closes the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})
