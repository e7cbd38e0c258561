"""A client that leaves takes its branches with it, within a second, and leaves no trace but a line in the log."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.integration.asking import ENDLESS, MODEL, asked, strategy
from tests.integration.server import Server, wait_for, wait_idle

SECOND = 1.0
INTERVAL = 16
SAMPLES = 8
LONG = {"max_tokens": 1000}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chain_of_thought": strategy("chain_of_thought"),
    "self_consistency": strategy(samples=SAMPLES),
    "best_of_n": strategy("best_of_n", samples=SAMPLES),
    "beam_search": {"strategy": {"type": "beam_search", "beams": SAMPLES, "width": 2, "step": LONG}},
    "particle_filter": {"strategy": {"type": "particle_filter", "particles": SAMPLES, "step": LONG}},
    "mcts": {"strategy": {"type": "mcts", "width": SAMPLES, "step": LONG}},
}
each_case = pytest.mark.parametrize("case", CASES)


def body(case: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": asked(), "max_tokens": 4000, **ENDLESS, **CASES[case], **fields}


async def generating(server: Server) -> None:
    await asyncio.to_thread(wait_for, lambda: server.counters().running > 0)


async def aborted(server: Server) -> None:
    await asyncio.to_thread(wait_idle, server, SECOND)


async def recorded(server: Server, request_id: str) -> dict[str, Any]:
    """The line of this request in the log, when it is there; and no traceback is."""

    def lines() -> list[str]:
        return [line for line in server.logs().splitlines() if line.startswith("{") and request_id in line]

    await asyncio.to_thread(wait_for, lambda: any('"outthink.access"' in line for line in lines()))
    assert "Traceback" not in server.logs()
    written = [json.loads(line) for line in lines()]
    assert {line["level"] for line in written} == {"INFO"}
    return next(line for line in written if line["name"] == "outthink.access")


@each_case
async def test_leaving_a_stream_aborts_its_branches_within_a_second(server: Server, key: str, case: str) -> None:
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)
    request_id = uuid4().hex
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": request_id}

    async def follow() -> None:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            client.stream(
                "POST", f"{server.api}/chat/completions", json=body(case, stream=True), headers=headers
            ) as reply,
        ):
            async for _ in reply.aiter_bytes():
                pass

    following = asyncio.create_task(follow())
    await generating(server)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert following.cancelled()
    await aborted(server)
    assert (await recorded(server, request_id))["seconds"] < 20


@each_case
async def test_closing_the_socket_of_a_whole_reply_aborts_it_too(server: Server, key: str, case: str) -> None:
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)
    request_id = uuid4().hex
    address = urlsplit(server.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(body(case)).encode()
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"X-Request-Id: {request_id}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    await writer.drain()
    await generating(server)
    writer.close()
    await writer.wait_closed()
    await aborted(server)
    assert (await recorded(server, request_id))["status"] == 499


async def test_what_was_spent_before_the_client_left_is_counted(server: Server, key: str) -> None:
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)
    before = server.counters().generation
    spent = server.metric("outthink_tokens_total", strategy="self_consistency")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        headers = {"Authorization": f"Bearer {key}"}
        request = client.post(f"{server.api}/chat/completions", json=body("self_consistency"), headers=headers)
        asking = asyncio.create_task(request)
        enough = before + 3 * SAMPLES * INTERVAL
        await asyncio.to_thread(wait_for, lambda: server.counters().generation > enough)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await aborted(server)
    await asyncio.to_thread(
        wait_for, lambda: server.metric("outthink_tokens_total", strategy="self_consistency") > spent
    )
    counted = server.metric("outthink_tokens_total", strategy="self_consistency") - spent
    assert 0 <= server.counters().generation - before - counted <= SAMPLES * (INTERVAL + 1)
    assert server.metric("outthink_live_branches") == 0
