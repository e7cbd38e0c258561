"""How many tokens a second one service process moves, when the engine is never the bottleneck.

The engine is synthetic (upstream.py). A search reads events of 16 tokens and forwards nothing; a stream forwards every
token. Wall time includes the synthetic engine and the client, which share the machine; tokens per CPU second of the
service alone is what one core of it would move.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import httpx

from benchmarks.servers import Server, service, upstream

SECONDS = 8.0
PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One row: what was moved, how fast, and how many tokens an event carried."""

    kind: str
    branches: int
    tokens: int
    tokens_per_second: float
    tokens_per_cpu_second: float
    tokens_per_event: float


def body(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}


async def search(client: httpx.AsyncClient, branches: int) -> int:
    """One self-consistency over all branches; return the tokens that it read."""
    strategy = {"type": "self_consistency", "samples": branches}
    reply = await client.post(PATH, json=body(strategy=strategy))
    return int(reply.raise_for_status().json()["usage"]["completion_tokens"])


async def stream(client: httpx.AsyncClient, branches: int) -> int:
    """So many streams at once, forwarded token by token; return the tokens that arrived."""

    async def one() -> int:
        request = body(strategy="chain_of_thought", stream=True)
        async with client.stream("POST", PATH, json=request) as reply:
            return sum([part.count(b'"content":" word"') async for part in reply.aiter_raw(1 << 20)])

    return sum(await asyncio.gather(*(one() for _ in range(branches))))


async def measure(
    server: Server, kind: str, work: Callable[[httpx.AsyncClient, int], Awaitable[int]], n: int
) -> Ceiling:
    """Repeat the work for some seconds."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits, trust_env=False) as client:
        await work(client, min(n, 4))
        began, cpu, tokens = time.perf_counter(), server.cpu_seconds(), 0
        while time.perf_counter() - began < SECONDS:
            tokens += await work(client, n)
        wall, used = time.perf_counter() - began, server.cpu_seconds() - cpu
    return Ceiling(kind, n, tokens, tokens / wall, tokens / used, 16.0 if work is search else 1.0)


def run() -> list[dict[str, object]]:
    rows = []
    with (
        upstream() as engine,
        service(engine_url=engine.url, default_budget_seconds=600, max_budget_tokens=10**8) as server,
    ):
        for branches in (16, 256):
            rows.append(asyncio.run(measure(server, "search, 16 tokens an event", search, branches)))
        for branches in (16, 256):
            rows.append(asyncio.run(measure(server, "stream, token by token", stream, branches)))
    return [asdict(row) for row in rows]
