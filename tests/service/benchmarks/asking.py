"""Asking for benchmarks and waiting for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

PATH = "/v1/benchmarks"
SMALL: dict[str, Any] = {"name": "arithmetic", "questions": 6}


def request(**fields: Any) -> dict[str, Any]:
    return {"dataset": SMALL, "strategies": ["self_consistency"], "samples": [1, 2, 4]} | fields


async def events(client: httpx.AsyncClient, job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a job, until it has ended."""
    async with client.stream("GET", f"{PATH}/{job['id']}/events") as stream:
        async for line in stream.aiter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")


async def ended(client: httpx.AsyncClient, job: Mapping[str, Any]) -> dict[str, Any]:
    """A job, once it has ended."""
    async for _ in events(client, job):
        pass
    found: dict[str, Any] = (await client.get(f"{PATH}/{job['id']}")).json()
    return found


async def done(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A job that is created and ends."""
    reply = await client.post(PATH, json=request(**fields))
    assert reply.status_code == 200, reply.text
    return await ended(client, reply.json())


async def lines(client: httpx.AsyncClient, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await client.get(f"{PATH}/{job['id']}/samples.jsonl")).text.splitlines()]


def without_time(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in cell.items() if name != "seconds"} for cell in results]
