"""How busy a search over steps keeps the engine: tokens a second, as a ratio of plain sampling's in the same run.

Every question is answered by `n=16` straight from vLLM and by each search through the service, in turns. Tokens are all
that were generated, the scorer's included, which is on the same engine; seconds are wall time.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from rich.progress import track

from benchmarks.overhead import ask, question
from benchmarks.servers import ENGINE_HEADERS, free_port, service

PATH_TOKENS = 160
STEP = {"delimiter": "\n\n", "max_tokens": 48}
SEARCHES: dict[str, dict[str, Any]] = {
    "beam_search, 16 beams": {"type": "beam_search", "beams": 16, "width": 4, "max_steps": 6, "step": STEP},
    "particle_filter, 16 particles": {"type": "particle_filter", "particles": 16, "max_steps": 6, "step": STEP},
    "mcts, waves of 4 × 4": {"type": "mcts", "iterations": 16, "width": 4, "wave": 4, "max_steps": 6, "step": STEP},
}


@dataclass(slots=True)
class Rate:
    """Tokens a second of every question."""

    name: str
    goal: float = 0.5
    rates: list[float] = field(default_factory=list)
    tokens: int = 0
    rounds: int = 0

    def row(self, plain: float) -> dict[str, Any]:
        rate = statistics.median(self.rates)
        shown = {"name": self.name, "goal": self.goal, "tokens_per_second": rate, "ratio": rate / plain}
        return {**shown, "tokens": self.tokens, "rounds": self.rounds, "questions": len(self.rates)}


def body(model: str, seed: int) -> dict[str, Any]:
    text = question(Random(seed)) + " Write one short step per paragraph, with a blank line between steps."
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": PATH_TOKENS,
        "temperature": 0.8,
        "seed": seed,
    }


def run(questions: int) -> list[dict[str, Any]]:
    port = free_port()
    plain, searches = Rate("n=16 straight from vLLM", goal=1.0), {name: Rate(name) for name in SEARCHES}
    asking = httpx.Client(headers=ENGINE_HEADERS, timeout=600, trust_env=False)
    with service(engine_port=port) as server, asking as client:
        vllm = f"http://127.0.0.1:{port}"
        model = client.get(f"{server.url}/v1/models").json()["data"][0]["id"]
        ask(client, server.url, {**body(model, 0), "strategy": "best_of_n"})  # not counted: the first judge is slow
        for seed in track(range(1, questions + 1), "searches"):
            seconds, reply = ask(client, vllm, {**body(model, seed), "n": 16})
            add(plain, seconds, reply["usage"]["completion_tokens"])
            for name, strategy in SEARCHES.items():
                seconds, reply = ask(client, server.url, {**body(model, seed), "strategy": strategy})
                spent = reply["outthink"]["usage"]
                add(searches[name], seconds, spent["policy"]["completion"] + spent["scorer"]["completion"])
                searches[name].rounds += reply["outthink"]["rounds"]
    rate = statistics.median(plain.rates)
    return [row.row(rate) for row in (plain, *searches.values())]


def add(rate: Rate, seconds: float, tokens: int) -> None:
    rate.rates.append(tokens / seconds)
    rate.tokens += tokens
