"""How long one key waits while another has many searches running: through the service, and with the same load straight
to vLLM.

Key A sends searches of 64 branches, more than the engine takes at once. When the engine is full, key B sends a plain
request and a small search, side by side, and their times are taken; then A's are aborted. Straight to vLLM all are
plain requests with `n`, in order of arrival. The two ways alternate in one run, on one engine.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from rich.progress import track

from benchmarks.overhead import question
from benchmarks.servers import ENGINE_HEADERS, free_port, service

ROUNDS = 3
SEARCHES, BRANCHES, SMALL = 5, 64, 4
SEQUENCES = 128
"""What the engine takes at once; the service lets in twice as many branches, as by default on a CPU."""
ANSWER_TOKENS, PLAIN_TOKENS, SMALL_TOKENS = 48, 8, 16
PATH = "/v1/chat/completions"


@dataclass(slots=True)
class Delay:
    """One kind of request of key B: seconds alone, beside A's load through the service, and straight to vLLM."""

    name: str
    alone: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    vllm: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        alone, ours, theirs = (statistics.median(times) for times in (self.alone, self.service, self.vllm))
        seconds = {"alone_seconds": alone, "service_seconds": ours, "vllm_seconds": theirs}
        return {"name": self.name, **seconds, "ratio": ours / theirs, "worst_ratio": self.worst, "rounds": ROUNDS}

    @property
    def worst(self) -> float:
        return max(ours / theirs for ours, theirs in zip(self.service, self.vllm, strict=True))


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the engine: with strategies and keys, or without."""

    url: str
    model: str
    strategies: bool

    async def ask(self, client: httpx.AsyncClient, key: str, seed: int, tokens: int, samples: int) -> float:
        """Draw so many samples and return the seconds that it took."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question(Random(seed))}],
            "max_tokens": tokens,
            "temperature": 0.8,
        }
        if samples > 1 and self.strategies:
            body["strategy"] = {"type": "self_consistency", "samples": samples}
        else:
            body["n"] = samples
        began = time.perf_counter()
        headers = {"Authorization": f"Bearer {key}"} if self.strategies else ENGINE_HEADERS
        reply = await client.post(f"{self.url}{PATH}", json=body, headers=headers)
        reply.raise_for_status()
        return time.perf_counter() - began

    async def measure(self, client: httpx.AsyncClient, seed: int) -> tuple[float, float]:
        """The seconds of key B's plain request and of its small search, sent at the same moment."""
        plain = self.ask(client, "b", seed, PLAIN_TOKENS, 1)
        search = self.ask(client, "b", seed + 1, SMALL_TOKENS, SMALL)
        return tuple(await asyncio.gather(plain, search))  # type: ignore[return-value]

    @asynccontextmanager
    async def keep_loaded(self, client: httpx.AsyncClient, vllm: str, seed: int) -> AsyncIterator[None]:
        """Key A's searches, from when the engine is full; at the end they are aborted, and the engine is idle."""
        asking = [
            asyncio.create_task(self.ask(client, "a", seed + number, ANSWER_TOKENS, BRANCHES))
            for number in range(SEARCHES)
        ]
        await busy(client, vllm, SEQUENCES)
        yield
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await busy(client, vllm, 0)


async def busy(client: httpx.AsyncClient, vllm: str, sequences: int) -> None:
    """Return when the engine runs exactly so many sequences."""
    while True:
        lines = (await client.get(f"{vllm}/metrics")).text.splitlines()
        running = sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))
        if running == sequences:
            return
        await asyncio.sleep(0.1)


async def compare(ours: Way, theirs: Way) -> list[dict[str, Any]]:
    plain, search = Delay(f"plain, {PLAIN_TOKENS} tokens"), Delay(f"search of {SMALL} × {SMALL_TOKENS} tokens")
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
        await ours.measure(client, 0)  # not counted: connections, the answer pool
        for seed in track(range(1, ROUNDS + 1), "fairness"):
            for delay, seconds in zip((plain, search), await ours.measure(client, seed), strict=True):
                delay.alone.append(seconds)
            for way in (ours, theirs) if seed % 2 else (theirs, ours):
                async with way.keep_loaded(client, theirs.url, 100 * seed):
                    seconds_of_b = await way.measure(client, seed)
                for delay, seconds in zip((plain, search), seconds_of_b, strict=True):
                    (delay.service if way is ours else delay.vllm).append(seconds)
    return [plain.row(), search.row()]


def run() -> list[dict[str, Any]]:
    port = free_port()
    arguments = f"--max-num-seqs {SEQUENCES}"
    limits: dict[str, str | int] = {"host": "127.0.0.1", "api_keys": "a,b", "max_branches": 2 * SEQUENCES}
    with service(engine_port=port, vllm_args=arguments, **limits) as server:
        vllm = f"http://127.0.0.1:{port}"
        model = httpx.get(f"{vllm}/v1/models", headers=ENGINE_HEADERS, trust_env=False).json()["data"][0]["id"]
        return asyncio.run(compare(Way(server.url, model, True), Way(vllm, model, False)))
