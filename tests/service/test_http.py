"""Replies that notice when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from service.web.bodies import Stream


async def test_a_source_is_closed_though_the_client_left_before_the_first_byte() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[bytes]:
        try:
            yield b"first"
            yield b"second"
        finally:
            closed.set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.Event().wait()

    begun = source()
    await Stream(begun, await anext(begun))({}, receive, send)
    assert closed.is_set()
