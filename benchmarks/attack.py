"""`make attack`: one hostile key against sixteen honest users, on the real engine, and what became of the honest ones.

The honest users ask first alone and then beside the attacker, who sends the worst requests of every endpoint, many at
once. Promised are: their slowest answers take at most twice as long, their votes are what their own samples say, and
nothing is restarted, memory stays within its bound, and every key is charged for all that vLLM generated.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.overhead import question
from benchmarks.servers import Server, free_port, service, vllm_metric
from service.answers.equality import AnswerReader
from service.answers.pool import AnswerPool

CHAT = "/v1/chat/completions"
HONEST = 16
ATTACKER, ADMIN = "attacker", "admin"
AT_ONCE = 12
"""Hostile requests in flight."""
SLOWER = 2.0
"""How many times longer the slowest honest answers may take."""
GROWTH = 512.0
"""MiB that the service and its answer processes may grow under attack."""
THINKING_SECONDS = 0.2

console = Console()


@dataclass(slots=True)
class Users:
    """What honest users asked and got: seconds by kind of request, and what was wrong."""

    workers: AnswerPool
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    async def ask_until(self, client: httpx.AsyncClient, key: str, dice: random.Random, until: float) -> None:
        """One user: a plain question or a vote, one after the other."""
        while time.monotonic() < until:
            kind = dice.choice(("plain", "vote"))
            began = time.monotonic()
            reply = await client.post(CHAT, json=honest(kind, dice), headers=bearer(key))
            self.seconds.setdefault(kind, []).append(time.monotonic() - began)
            if reply.status_code != 200:
                self.wrong.append(f"{kind}: {reply.status_code} {reply.text[:200]}")
            elif kind == "vote":
                await self.recount(reply.json()["outthink"])
            await asyncio.sleep(dice.uniform(0, 2 * THINKING_SECONDS))

    async def recount(self, told: dict[str, Any]) -> None:
        """Vote again over the answers that the reply shows, in processes that nobody attacks."""
        complete = [candidate for candidate in told["candidates"] if candidate["finish_reason"] == "stop"]
        answers = [candidate["answer"] for candidate in complete if candidate["answer"] is not None]
        reader = AnswerReader(self.workers.share("", ""))
        groups = Counter(group for group in await reader.classes(answers) if group is not None)
        counted = sorted(vote["count"] for vote in told["votes"])
        if counted != sorted(groups.values()):
            self.wrong.append(f"the votes {told['votes']} of the answers {answers}")

    def p99(self, kind: str) -> float:
        return statistics.quantiles(self.seconds[kind], n=100, method="inclusive")[98]


def honest(kind: str, dice: random.Random) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question(dice)}], "max_tokens": 48}
    if kind == "vote":
        body |= {"strategy": {"type": "self_consistency", "samples": 4}, "include": ["candidates"]}
    return body


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def nested(depth: int) -> str:
    """A pattern whose compilation doubles with every level."""
    return "(" + "(?:" * depth + "a|" + ")+" * depth + ")"


def hostile() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The worst requests: a name, the path, the body."""
    ask = {"messages": [{"role": "user", "content": "Write the letter a many times, then 1/2."}]}
    votes = {"type": "self_consistency", "samples": 64}
    yield "pattern that explodes", CHAT, {**ask, "strategy": votes, "answer": {"pattern": nested(60)}, "dry_run": True}
    yield (
        "pattern that backtracks",
        CHAT,
        {**ask, "strategy": votes, "max_tokens": 64, "answer": {"pattern": "((a+)+)$"}},
    )
    yield (
        "widest tree",
        CHAT,
        {
            **ask,
            "strategy": {"type": "mcts", "width": 64, "wave": 4, "iterations": 28, "step": {"max_tokens": 2}},
            "max_tokens": 8,
        },
    )
    certain = {"type": "best_of_n", "samples": 256, "scorer": "self_certainty"}
    yield "256 samples with log-probabilities", CHAT, {**ask, "strategy": certain, "max_tokens": 64}
    logprobs = {"logprobs": True, "top_logprobs": 20}
    yield "20 log-probabilities a token", CHAT, {**ask, **logprobs, "strategy": votes, "n": 64, "max_tokens": 64}
    yield "n without a strategy", CHAT, {**ask, "n": 256, "max_tokens": 64}
    yield "a list of prompts", "/v1/completions", {"prompt": ["a"] * 512, "n": 64, "max_tokens": 64}
    yield "a stream that hides its usage", CHAT, {**ask, "stream": True, "stream_interval": 4096, "max_tokens": 512}
    yield "numbers as words", CHAT, {**ask, "max_tokens": "4096"}
    yield "fields of the engine", CHAT, {**ask, "strategy": votes, "prompt_logprobs": 20, "echo": True}
    yield "a long text to tokenize", "/tokenize", {"prompt": "ab " * 1_000_000}
    yield "a deep body", CHAT, {**ask, "metadata": deep(5_000)}
    yield "a long prompt", CHAT, {"messages": [{"role": "user", "content": "word " * 200_000}], "strategy": votes}


def deep(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


@dataclass(slots=True)
class Attacker:
    """Sends them by turns until told to stop; every third leaves before it is answered."""

    outcomes: Counter[str] = field(default_factory=Counter)

    async def attack(self, client: httpx.AsyncClient, dice: random.Random) -> None:
        for name, path, body in cycle(hostile()):
            outcome = "client left"
            with suppress(TimeoutError):
                async with asyncio.timeout(dice.uniform(0.05, 3) if dice.random() < 1 / 3 else None):
                    outcome = await self.ask(client, path, body)
            self.outcomes[f"{name}: {outcome}"] += 1
            await asyncio.sleep(0.01)

    async def ask(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> str:
        try:
            reply = await client.post(path, json=body, headers=bearer(ATTACKER))
        except (httpx.HTTPError, RecursionError, ValueError) as error:
            return type(error).__name__
        return str(reply.status_code)

    async def drip(self, client: httpx.AsyncClient) -> None:
        """Bodies that come a byte at a time."""

        async def slowly() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(1)

        while True:
            with suppress(httpx.HTTPError):
                reply = await client.post(CHAT, content=slowly(), headers=bearer(ATTACKER))
                self.outcomes[f"a body that drips: {reply.status_code}"] += 1
            await asyncio.sleep(0.5)


@asynccontextmanager
async def attacked(client: httpx.AsyncClient, attacker: Attacker) -> AsyncIterator[None]:
    dice = random.Random(7)
    work = [asyncio.create_task(attacker.attack(client, random.Random(dice.random()))) for _ in range(AT_ONCE)]
    work += [asyncio.create_task(attacker.drip(client)) for _ in range(4)]
    try:
        yield
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


def resident(pid: int) -> float:
    """MiB of a process and of the answer processes that it has started."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in children_of(task)]
    return sum(map(own_memory, (pid, *filter(is_python_worker, children))))


def children_of(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []


def is_python_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def own_memory(pid: int) -> float:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
    return 0.0


async def follow(pid: int, note: Callable[[float], None]) -> None:
    while True:
        note(resident(pid))
        await asyncio.sleep(0.2)


async def phase(url: str, minutes: float, workers: AnswerPool, seed: int) -> Users:
    """The honest users for some minutes."""
    users, until = Users(workers), time.monotonic() + 60 * minutes
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        dice = random.Random(seed)
        asking: list[Awaitable[None]] = [
            users.ask_until(client, f"user-{number}", random.Random(dice.random()), until) for number in range(HONEST)
        ]
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("honest users", total=60 * minutes)
            everyone = asyncio.gather(*asking)
            while not everyone.done():
                await asyncio.wait({everyone}, timeout=1)
                progress.update(bar, completed=60 * minutes - (until - time.monotonic()))
            await everyone
    return users


async def measure(server: Server, vllm: str, minutes: float) -> dict[str, Any]:
    workers = AnswerPool(1, 10.0)
    attacker, memory = Attacker(), [resident(server.pid)]
    try:
        alone = await phase(server.url, min(minutes, 2.0), workers, 1)
        before = max(memory)
        started = vllm_metric(vllm, "generation_tokens_total")
        following = asyncio.create_task(follow(server.pid, memory.append))
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits, trust_env=False) as client:
            async with attacked(client, attacker):
                beside = await phase(server.url, minutes, workers, 2)
            following.cancel()
    finally:
        workers.close()
    figures: dict[str, Any] = {}
    for kind in ("plain", "vote"):
        figures[f"{kind}, p99 alone, s"] = alone.p99(kind)
        figures[f"{kind}, p99 under attack, s"] = beside.p99(kind)
        figures[f"{kind}, ratio"] = beside.p99(kind) / alone.p99(kind)
        figures[f"{kind}, answered alone and under attack"] = f"{len(alone.seconds[kind])}, {len(beside.seconds[kind])}"
    restarted = vllm_metric(vllm, "generation_tokens_total") < started or not own_memory(server.pid)
    return figures | {
        "wrong answers": len(alone.wrong) + len(beside.wrong),
        "first wrong": (alone.wrong + beside.wrong)[:3],
        "restarts": int(restarted),
        "memory growth, MiB": round(max(memory) - before, 1),
        **{f"attack, {name}": count for name, count in sorted(attacker.outcomes.items())},
    }


def main(minutes: Annotated[float, typer.Option(help="How long to attack.")] = 5.0) -> None:
    """Attack, print what became of the honest users, and exit 1 when a promise was broken."""
    port = free_port()
    keys = ",".join([*(f"user-{number}" for number in range(HONEST)), ATTACKER])
    with service(engine_port=port, host="127.0.0.1", api_keys=keys, admin_keys=ADMIN, worker=0) as server:
        figures = asyncio.run(measure(server, f"http://127.0.0.1:{port}", minutes))
    table = Table("what", "figure", title=f"attack of {minutes:g} minutes")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    console.print(table)
    slow = max(figures["plain, ratio"], figures["vote, ratio"]) > SLOWER
    if slow or figures["wrong answers"] or figures["restarts"] or figures["memory growth, MiB"] > GROWTH:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
