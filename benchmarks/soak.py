"""`make soak`: minutes of mixed load on the real engine, which is killed twice, and what came of every request.

Plain requests and every strategy, whole and streamed, some with budgets, some whose client leaves. The service runs in
this process, so that a task left behind would be seen; vLLM is its own, managed, on loopback. At the end the tokens
that clients and service know of are compared with vLLM's own counters, which a restart sets back: they are read often.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.budgets import STRATEGIES
from benchmarks.overhead import question
from benchmarks.servers import free_port, vllm_metric
from service.app import create_app
from service.settings import Settings
from service.wire.strategy import build

PATH = "/v1/chat/completions"
CLIENTS = 6
MAX_TOKENS = 96
KILLS = (0.3, 0.6)  # of the time
SETTLED = 0.15  # of the time: from here on memory should not grow
UNTOLD = 17  # tokens of a branch that vLLM made and nobody was told of when it was aborted: an event and a step
ENGINE = "vllm.entrypoints.openai.api_server"
PROPER = {400, 429, 502, 503, 504}

console = Console()


@dataclass(slots=True)
class Load:
    """What was asked and what came of it. `untold` bounds the tokens that vLLM may have made without telling."""

    url: str
    outcomes: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    plain_tokens: int = 0
    untold: int = 0

    async def client(self, until: float, dice: random.Random) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120, trust_env=False) as client:
            while time.monotonic() < until:
                await self.one(client, dice)

    async def one(self, client: httpx.AsyncClient, dice: random.Random) -> None:
        """Ask once, by the dice; what is neither an answer nor a proper error is lost."""
        name = dice.choice(["plain", *STRATEGIES])
        body = request(name, dice)
        patience = dice.uniform(0.1, 4) if name != "plain" and dice.random() < 0.25 else None
        self.asked[name] += 1
        try:
            async with asyncio.timeout(patience):
                outcome = await self.ask_streamed(client, body) if body["stream"] else await self.whole(client, body)
        except TimeoutError:
            outcome = "client left"
        except httpx.HTTPError as error:
            outcome = f"lost: {type(error).__name__}"
        if outcome.startswith("lost"):
            self.lost.append(f"{name}: {outcome}")
        if outcome not in ("complete", "429", "503"):  # the kills account for what a 503 cut
            self.untold += width(name) * UNTOLD if name != "plain" else MAX_TOKENS
        self.outcomes[outcome] += 1
        if outcome == "503":
            await asyncio.sleep(2)  # as the reply says, only sooner

    async def whole(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        reply = await client.post(PATH, json=body)
        told = reply.json()
        if reply.status_code != 200:
            return str(reply.status_code) if reply.status_code in PROPER and "error" in told else f"lost: {reply.text}"
        return self.count_reply(told, "strategy" not in body)

    async def ask_streamed(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        told: dict[str, Any] = {}
        line = ""
        async with client.stream("POST", PATH, json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                return str(reply.status_code) if reply.status_code in PROPER else f"lost: {reply.text}"
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    told |= httpx.Response(200, content=line[6:]).json()
        if "error" in told:
            return "error in the stream"
        return self.count_reply(told, "strategy" not in body) if told.get("usage") else "lost: a stream without an end"

    def count_reply(self, told: dict[str, Any], plain: bool) -> str:
        if plain:
            self.plain_tokens += told["usage"]["completion_tokens"]
            return "complete"
        extra = told["outthink"]
        return "failed branches" if "failed" in extra else str(extra["stopped_by"])


def request(name: str, dice: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question(dice)}],
        "max_tokens": MAX_TOKENS,
        "stream": dice.random() < 0.5,
    }
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    if name != "plain":
        body["strategy"] = STRATEGIES[name]
        bounds = ({"tokens": dice.randint(8, 400)}, {"seconds": dice.uniform(0.2, 5)}, None)
        body["budget"] = dice.choice(bounds)
    return body


def width(name: str) -> int:
    """Branches that a strategy has at most at once."""
    return build(STRATEGIES[name]).plan(1, MAX_TOKENS, None).branches


class Counters:
    """vLLM's tokens over all its lives: a counter that went back belongs to a new one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.past = 0
        self.last = 0

    @property
    def tokens(self) -> int:
        return self.past + self.last

    async def read(self) -> None:
        try:
            now = await asyncio.to_thread(vllm_metric, self.url, "generation_tokens_total")
        except httpx.HTTPError:
            return
        if now < self.last:
            self.past += self.last
        self.last = now

    async def follow(self) -> None:
        while True:
            await self.read()
            await asyncio.sleep(0.2)


class Here(uvicorn.Server):
    """Leaves signals to the soak."""

    def install_signal_handlers(self) -> None:
        return None


@asynccontextmanager
async def serving(app: FastAPI, port: int) -> AsyncIterator[str]:
    server = Here(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, timeout_graceful_shutdown=5))
    task = asyncio.create_task(server.serve())
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await ready(client)
        yield url
    finally:
        server.should_exit = True
        await task


async def ready(client: httpx.AsyncClient) -> None:
    while True:
        try:
            if (await client.get("/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.25)


def kill(engine_port: int) -> bool:
    """SIGKILL the API server of the vLLM on this port and its watcher; false where there is none to kill."""
    victims = [path for path in Path("/proc").glob("[0-9]*/cmdline") if serves(path, engine_port)]
    for path in victims:
        os.kill(int(path.parent.name), signal.SIGKILL)
    return bool(victims)


def serves(path: Path, port: int) -> bool:
    try:
        words = path.read_bytes().split(b"\0")
    except OSError:
        return False
    return ENGINE.encode() in words and str(port).encode() in words


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def soak(minutes: float, seed: int) -> dict[str, Any]:
    """Load, kills, and the account."""
    engine_port, tasks = free_port(), len(asyncio.all_tasks())
    with tempfile.TemporaryDirectory() as data:
        settings = Settings(engine_port=engine_port, data_dir=Path(data), log_level="ERROR")
        app = create_app(settings)
        async with serving(app, free_port()) as url:
            account = await run_load(url, app, engine_port, minutes, seed)
    await asyncio.sleep(1)
    return account | {"leaked tasks": len(asyncio.all_tasks()) - tasks}


async def run_load(url: str, app: FastAPI, engine_port: int, minutes: float, seed: int) -> dict[str, Any]:
    load, counters = Load(url), Counters(f"http://127.0.0.1:{engine_port}")
    following = asyncio.create_task(counters.follow())
    began = time.monotonic()
    until = began + 60 * minutes
    clients = [asyncio.create_task(load.client(until, random.Random(seed + i))) for i in range(CLIENTS)]
    kills, settled = [began + 60 * minutes * share for share in KILLS], 0.0
    killed = 0
    with Progress(console=console) as progress:
        bar = progress.add_task("soak", total=60 * minutes)
        while not all(client.done() for client in clients):
            await asyncio.sleep(0.25)
            progress.update(bar, completed=min(time.monotonic() - began, 60 * minutes))
            settled = settled or (resident() if time.monotonic() > began + 60 * minutes * SETTLED else 0.0)
            if kills and time.monotonic() > kills[0]:
                kills.pop(0)
                load.untold += CLIENTS * 8 * UNTOLD  # untold to us, or to the counter since it was read last
                killed += kill(engine_port)
    await asyncio.gather(*clients)
    await asyncio.sleep(2)
    await counters.read()
    following.cancel()
    context = app.state.context
    known = load.plain_tokens + sum(
        int(sample.value)
        for metric in context.metrics.tokens.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["strategy"] != "none"
    )
    return {
        "requests": sum(load.asked.values()),
        **{f"asked: {name}": n for name, n in sorted(load.asked.items())},
        **{f"outcome: {name}": n for name, n in load.outcomes.most_common()},
        "engine killed": killed,
        "lost": len(load.lost),
        "first lost": load.lost[:3],
        "live branches": context.live_branches,
        "waiting": context.admission.waiting,
        "memory growth, MiB": round(resident() - settled, 1),
        "tokens known": known,
        "tokens of vLLM": counters.tokens,
        "tokens untold": counters.tokens - known,
        "untold at most": load.untold,
    }


def main(
    minutes: Annotated[float, typer.Option(help="How long to keep asking.")] = 6.0,
    seed: Annotated[int, typer.Option(help="Of the dice.")] = 1,
) -> None:
    """Soak, print the account, and exit 1 when a request was lost or something was left behind."""
    account = asyncio.run(soak(minutes, seed))
    table = Table("what", "figure", title=f"soak of {minutes:g} minutes")
    for name, value in account.items():
        table.add_row(name, str(value))
    console.print(table)
    broken = account["lost"] or account["leaked tasks"] or account["live branches"]
    if broken or abs(account["tokens untold"]) > account["untold at most"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
