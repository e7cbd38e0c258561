"""How far a budget is exceeded: every strategy under random budgets, on the real engine, one request at a time.

Tokens are those that vLLM itself counted, also those that nobody was told of, over the budget and per branch that was
cut. Seconds are wall time at the client over the budget. The bounds are those of the contract: 64 tokens a live branch;
half a second and one decode step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from rich.progress import track

from benchmarks.overhead import question
from benchmarks.servers import free_port, idle, service, vllm_tokens

TOKENS = (16, 768)
SECONDS = (0.5, 4.0)
STEP = {"delimiter": "\n\n", "max_tokens": 48}
STRATEGIES: dict[str, dict[str, Any]] = {
    "chain_of_thought": {"type": "chain_of_thought"},
    "self_consistency": {"type": "self_consistency", "samples": 8},
    "best_of_n": {"type": "best_of_n", "samples": 8},
    "beam_search": {"type": "beam_search", "beams": 8, "width": 4, "step": STEP},
    "dvts": {"type": "beam_search", "beams": 8, "width": 4, "trees": 2, "step": STEP},
    "particle_filter": {"type": "particle_filter", "particles": 8, "step": STEP},
    "mcts": {"type": "mcts", "iterations": 16, "width": 4, "wave": 2, "step": STEP},
}


@dataclass(slots=True)
class Overshoot:
    """What one strategy exceeded its budgets by; only runs that a budget ended."""

    strategy: str
    tokens: list[float] = field(default_factory=list)  # per branch that was cut
    seconds: list[float] = field(default_factory=list)
    complete: int = 0

    def row(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"strategy": self.strategy}
        for name, values in (("tokens", self.tokens), ("seconds", self.seconds)):
            shown |= {f"{name} n": len(values)}
            shown |= {f"{name} {label}": quantile(values, share) for label, share in QUANTILES.items()}
        return shown | {"complete answers": self.complete}


QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


def run(questions: int) -> list[dict[str, Any]]:
    """So many budgets of tokens, and as many of seconds, for every strategy."""
    port, random = free_port(), Random(4)
    rows = [Overshoot(name) for name in STRATEGIES]
    with service(engine_port=port) as server, httpx.Client(base_url=server.url, timeout=600, trust_env=False) as client:
        vllm = f"http://127.0.0.1:{port}"
        ask(client, {"strategy": STRATEGIES["best_of_n"]}, random)  # not counted: the first judge is slow
        for _ in track(range(questions), "budgets"):
            for row in rows:
                of_tokens(client, vllm, row, random)
                of_seconds(client, vllm, row, random)
    return [row.row() for row in rows]


def ask(client: httpx.Client, extra: dict[str, Any], random: Random) -> httpx.Response:
    messages = [{"role": "user", "content": question(random)}]
    body = {"messages": messages, "seed": random.getrandbits(31), "include": ["candidates"], "max_tokens": 1024}
    return client.post("/v1/chat/completions", json={**body, **extra})


def of_tokens(client: httpx.Client, vllm: str, row: Overshoot, random: Random) -> None:
    """One budget of tokens, small ones as likely as large ones."""
    tokens = round(math.exp(random.uniform(*map(math.log, TOKENS))))
    idle(vllm)
    before = vllm_tokens(vllm)
    extra = {"strategy": STRATEGIES[row.strategy], "budget": {"tokens": tokens}}
    reply = ask(client, extra, random).raise_for_status().json()
    idle(vllm)
    if reply["outthink"]["stopped_by"] == "tokens":
        cut = sum(candidate["finish_reason"] == "length" for candidate in reply["outthink"]["candidates"])
        row.tokens.append((vllm_tokens(vllm) - before - tokens) / max(cut, 1))
        row.complete += reply["choices"][0]["finish_reason"] == "stop"


def of_seconds(client: httpx.Client, vllm: str, row: Overshoot, random: Random) -> None:
    """One budget of seconds, against an engine that has nothing else to do."""
    seconds = random.uniform(*SECONDS)
    idle(vllm)
    began = time.perf_counter()
    extra = {"strategy": STRATEGIES[row.strategy], "budget": {"seconds": seconds}, "ignore_eos": True}
    reply = ask(client, extra, random)
    if reply.status_code == 504 or reply.raise_for_status().json()["outthink"]["stopped_by"] == "seconds":
        row.seconds.append(time.perf_counter() - began - seconds)
