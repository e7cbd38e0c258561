"""Where the time of a search over steps goes: its strategy over vLLM itself, with a clock around every call.

Calls of one kind overlap, so what is counted is the time in which at least one of them was under way. `branches` is how
many were generating at once, on average, while any was; sixteen would be those of `n=16`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.search import SEARCHES, body
from benchmarks.servers import free_port, service
from service.answers.equality import AnswerReader
from service.answers.pool import AnswerPool
from service.engines.backend import Backend
from service.engines.vllm.client import VllmClient
from service.engines.vllm.engine import VllmEngine
from service.settings import Settings
from service.wire.strategy import build
from strategies.run import run as driven
from strategies.scorers.generative import Generative
from strategies.session import Session
from strategies.types import Batch, Call, Chat, Engine, Ids

Kind = Literal["generating", "scoring", "tokenizer"]


@dataclass(slots=True)
class Timed:
    """An engine that notes when calls of each kind began and ended."""

    engine: Engine
    spans: list[tuple[Kind, float, float]] = field(default_factory=list)
    alone: float = 0.0  # seconds of all generating branches, added up

    @contextmanager
    def clock(self, kind: Kind) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spans.append((kind, began, time.perf_counter()))

    async def context(self, model: str | None = None) -> int:
        return await self.engine.context(model)

    async def render(self, chat: Chat, model: str | None = None) -> Ids:
        with self.clock("tokenizer"):
            return await self.engine.render(chat, model)

    async def tokenize(self, text: str, model: str | None = None, special: bool = False) -> Ids:
        with self.clock("tokenizer"):
            return await self.engine.tokenize(text, model, special)

    async def detokenize(self, ids: Ids, model: str | None = None) -> str:
        with self.clock("tokenizer"):
            return await self.engine.detokenize(ids, model)

    def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        return self.engine.sample(chat, call)

    async def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        began = time.perf_counter()
        with self.clock("scoring" if call.label_ids else "generating"):
            async for batch in self.engine.extend(prefixes, call):
                finished = sum(delta.finish_reason is not None for delta in batch.deltas)
                self.alone += 0 if call.label_ids else finished * (time.perf_counter() - began)
                yield batch

    def seconds(self, kind: Kind) -> float:
        """How long at least one call of this kind was under way."""
        total, reached = 0.0, 0.0
        for began, ended in sorted((began, ended) for what, began, ended in self.spans if what == kind):
            total += max(ended - max(began, reached), 0.0)
            reached = max(reached, ended)
        return total

    @property
    def branches(self) -> float:
        """Branches that generated at once, while any did."""
        return self.alone / max(self.seconds("generating"), 1e-9)


def run(questions: int) -> list[dict[str, Any]]:
    port = free_port()
    with service(engine_port=port, worker=0):
        return asyncio.run(profile_searches(f"http://127.0.0.1:{port}", questions))


async def profile_searches(url: str, questions: int) -> list[dict[str, Any]]:
    settings = Settings(engine_url=url)
    client, workers = VllmClient(settings), AnswerPool(1, 2.0)
    try:
        await client.probe()
        model = (await client.models())[0]["id"]
        return [await row(client, workers, model, name, questions) for name in SEARCHES]
    finally:
        workers.close()
        await client.close()


async def row(client: VllmClient, workers: AnswerPool, model: str, name: str, questions: int) -> dict[str, Any]:
    strategy = build(SEARCHES[name])
    timed = Timed(VllmEngine(Backend(client), model, f"profile-{strategy.type}"))
    seconds = 0.0
    for seed in range(1, questions + 1):
        asked = body(model, seed)
        fields = {"max_tokens": asked["max_tokens"], "temperature": asked["temperature"]}
        reader = AnswerReader(workers.share("", ""), "math", None)
        session = Session(Chat(tuple(asked["messages"]), fields), timed, reader, Generative(), seed=seed)
        began = time.perf_counter()
        async for _ in driven(strategy, session):
            pass
        seconds += time.perf_counter() - began
    kinds: tuple[Kind, ...] = ("generating", "scoring", "tokenizer")
    shares: dict[str, Any] = {kind: timed.seconds(kind) / seconds for kind in kinds}
    rest = 1 - sum(shares.values())
    return {"name": name, "seconds": seconds, **shares, "rest": rest, "branches": timed.branches}
