"""vLLM is killed in the middle of searches: proper errors at once, nothing left behind, and it comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.asking import ENDLESS, MODEL, asked, strategy
from tests.integration.server import START_SECONDS, Server, descendants, wait_for

BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chain_of_thought": strategy("chain_of_thought"),
    "self_consistency": strategy(samples=2),
    "best_of_n": strategy("best_of_n", samples=2),
    "beam_search": {"strategy": {"type": "beam_search", "beams": 2, "width": 2}},
}


def vllm(port: int) -> set[int]:
    """The processes of the vLLM that listens on this port."""
    words = {b"vllm.entrypoints.openai.api_server", str(port).encode()}
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if words <= set(file.read_bytes().split(b"\0")):
                found |= {int(file.parent.name), *descendants(int(file.parent.name))}
    return found


def ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/ready", trust_env=False).status_code == 200


async def test_killed_in_mid_search_it_is_told_and_comes_back(server: Server, key: str) -> None:
    if server.data is None:
        pytest.skip("the engine is not ours to kill")
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=server.api, headers=headers, trust_env=False, timeout=120) as client:

        async def ask(name: str, stream: bool) -> httpx.Response:
            body = {"model": MODEL, "messages": asked(), "max_tokens": 4000, "stream": stream}
            return await client.post("/chat/completions", json={**body, **ENDLESS, **BODIES[name]})

        asking = [asyncio.create_task(ask(name, stream)) for name in BODIES for stream in (False, True)]
        await asyncio.to_thread(wait_for, lambda: server.counters().running >= len(asking), 30)
        for pid in vllm(urlsplit(server.engine).port or 0):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            replies = await asyncio.gather(*asking)
        for reply in replies:
            assert reply.status_code in (200, 503)
            error = reply.json() if reply.status_code == 503 else None
            if error is None:  # a stream that had begun
                assert "[DONE]" not in reply.text
            else:
                assert error["error"]["code"] == "engine_unavailable"
        down = await ask("self_consistency", False)
        assert (down.status_code, down.headers["retry-after"]) == (503, "5")
        assert server.metric("outthink_live_branches") == 0
        await asyncio.to_thread(wait_for, lambda: ready(server), START_SECONDS)
        body = {"model": MODEL, "messages": asked(), "max_tokens": 4, **strategy(samples=2)}
        assert (await client.post("/chat/completions", json=body)).status_code == 200
