"""What a strategy costs over the sampling that it cannot do without: wall time through the service against vLLM alone.

Both sides draw the very same samples (same prompt, same seed), alternating in one run, and what vLLM did is checked to
be the same. The ratio is that of the medians' time per question.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import httpx
from rich.progress import track

from benchmarks.servers import ENGINE_HEADERS, Server, free_port, service
from strategies.seeds import derive

ANSWER_TOKENS = 96


@dataclass(slots=True)
class Comparison:
    """A strategy against `n` samples straight from vLLM. Seconds are per question."""

    name: str
    strategy: dict[str, Any]
    temperature: float
    goal: float
    service: list[float] = field(default_factory=list)
    vllm: list[float] = field(default_factory=list)
    tokens: int = 0
    different: int = 0

    @property
    def ratio(self) -> float:
        """The median of the questions' own ratios, since questions differ more than the two sides do."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.service, self.vllm, strict=True))

    def row(self) -> dict[str, Any]:
        kept = {k: v for k, v in asdict(self).items() if k not in ("service", "vllm", "strategy")}
        medians = {"service_seconds": statistics.median(self.service), "vllm_seconds": statistics.median(self.vllm)}
        return {**kept, **medians, "ratio": self.ratio, "questions": len(self.vllm)}


def comparisons() -> list[Comparison]:
    return [
        Comparison("self_consistency 16 / n=16", {"type": "self_consistency", "samples": 16}, 0.7, 1.05),
        Comparison("best_of_n 8 with judge / n=8", {"type": "best_of_n", "samples": 8}, 0.8, 1.6),
    ]


def question(random: Random) -> str:
    start, gain, loss = (random.randint(10, 99) for _ in range(3))
    return (
        f"Tom has {start} apples. He buys {gain} more and gives {loss} to his friends. How many apples has he now? "
        "Think step by step and put the final answer in \\boxed{}."
    )


def ask(client: httpx.Client, url: str, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    reply = client.post(f"{url}/v1/chat/completions", json=body)
    return time.perf_counter() - began, reply.raise_for_status().json()


def compare(client: httpx.Client, server: Server, vllm: str, model: str, comparison: Comparison, seed: int) -> None:
    """One question, both ways; who goes first alternates."""
    common = {
        "model": model,
        "messages": [{"role": "user", "content": question(Random(seed))}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": comparison.temperature,
    }
    plain = {**common, "n": comparison.strategy["samples"], "seed": derive(seed, comparison.strategy["type"])}
    calls = {server.url: {**common, "seed": seed, "strategy": comparison.strategy}, vllm: plain}
    order = (server.url, vllm) if seed % 2 else (vllm, server.url)
    seconds, replies = {}, {}
    for url in order:
        seconds[url], replies[url] = ask(client, url, calls[url])
    comparison.service.append(seconds[server.url])
    comparison.vllm.append(seconds[vllm])
    used = [replies[url]["usage"]["completion_tokens"] for url in (server.url, vllm)]
    comparison.tokens += used[1]
    comparison.different += used[0] != used[1]


def run(questions: int) -> list[dict[str, Any]]:
    port = free_port()
    rows = comparisons()
    asking = httpx.Client(headers=ENGINE_HEADERS, timeout=600, trust_env=False)
    with service(engine_port=port) as server, asking as client:
        vllm = f"http://127.0.0.1:{port}"
        model = client.get(f"{server.url}/v1/models").json()["data"][0]["id"]
        for comparison in rows:
            compare(client, server, vllm, model, comparison, 0)  # not counted: caches, connections, the answer pool
            comparison.service, comparison.vllm, comparison.tokens, comparison.different = [], [], 0, 0
            for seed in track(range(1, questions + 1), comparison.name):
                compare(client, server, vllm, model, comparison, seed)
    return [comparison.row() for comparison in rows]
