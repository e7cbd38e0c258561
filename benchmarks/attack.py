"""`make attack`: one hostile key against sixteen honest users, on the real engine, and what became of the honest ones.

The honest users ask first alone and then beside the attacker, who sends the worst requests of every endpoint, many at
once. Promised are: their slowest answers take at most twice as long, their votes are what their own samples say, and
nothing is restarted, memory stays within its bound, and every key is charged for all that vLLM generated.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.overhead import question
from benchmarks.servers import Server, free_port, idle, service, vllm_tokens
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
"""MiB that the server may grow under attack, and each of its two answer processes by its limit of memory."""
DRIPPING = 4
"""Bodies that come a byte at a time, beside them."""
THINKING_SECONDS = 0.2
UNTOLD = 32
"""Tokens of an aborted branch that no event told of: an event of 16 on its way, and one in the making."""

console = Console()


@dataclass(slots=True)
class Users:
    """What honest users asked and got: seconds by kind of request, tokens by user, and what was wrong."""

    workers: AnswerPool
    cost: Counter[str] = field(default_factory=Counter)
    generated: int = 0
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
            else:
                self.cost[key] += reply.json()["usage"]["total_tokens"]
                self.generated += reply.json()["usage"]["completion_tokens"]
            if reply.status_code == 200 and kind == "vote":
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


def explosive(depth: int) -> str:
    """A pattern whose compilation doubles with every level."""
    return "(" + "(?:" * depth + "a|" + ")+" * depth + ")"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One of the worst requests; `branches` is how many sequences it may have in the engine."""

    name: str
    path: str
    content: bytes
    branches: int = 0


def hostile() -> list[Hostile]:
    ask = {"messages": [{"role": "user", "content": "Write the letter a many times, then 1/2."}]}
    votes = {"type": "self_consistency", "samples": 64}
    tree = {"type": "mcts", "width": 64, "wave": 4, "iterations": 28, "step": {"max_tokens": 2}}
    certain = {"type": "best_of_n", "samples": 256, "scorer": "self_certainty"}
    top = {"logprobs": True, "top_logprobs": 20}
    chats: list[tuple[str, int, dict[str, Any]]] = [
        ("pattern that explodes", 0, {"strategy": votes, "answer": {"pattern": explosive(60)}, "dry_run": True}),
        ("pattern that backtracks", 64, {"strategy": votes, "max_tokens": 64, "answer": {"pattern": "((a+)+)$"}}),
        ("widest tree", 256, {"strategy": tree, "max_tokens": 8}),
        ("256 samples with log-probabilities", 256, {"strategy": certain, "max_tokens": 64}),
        ("20 log-probabilities a token", 64, {**top, "strategy": votes, "n": 64, "max_tokens": 64}),
        ("more log-probabilities than are kept", 0, {**top, "n": 128}),
        ("n without a strategy", 256, {"n": 256, "max_tokens": 64}),
        ("n over the limit", 0, {"n": 100_000, "max_tokens": 64}),
        ("a stream without usage", 1, {"stream": True, "max_tokens": 512}),
        ("a stream that hides its usage", 0, {"stream": True, "stream_interval": 4096, "max_tokens": 512}),
        ("numbers as words", 0, {"max_tokens": "4096"}),
        ("fields of the engine", 0, {"strategy": votes, "prompt_logprobs": 20, "echo": True}),
    ]
    long = {"messages": [{"role": "user", "content": "word " * 200_000}], "strategy": votes}
    return [
        *(Hostile(name, CHAT, json.dumps({**ask, **fields}).encode(), branches) for name, branches, fields in chats),
        Hostile("a list of prompts", "/v1/completions", json.dumps({"prompt": ["a"] * 512, "n": 64}).encode()),
        Hostile("as many prompts as allowed", "/v1/completions", json.dumps({"prompt": ["a"] * 256}).encode(), 256),
        Hostile("a long text to tokenize", "/tokenize", json.dumps({"prompt": "ab " * 1_000_000}).encode()),
        Hostile("a long prompt", CHAT, json.dumps(long).encode()),
        Hostile("a deep body", CHAT, b'{"metadata": %b}' % (b"[" * 5_000 + b"]" * 5_000)),
    ]


WORST = hostile()


@dataclass(slots=True)
class Attacker:
    """Sends them by turns until told to stop; every third leaves before it is answered.

    `left` is how many branches may have been aborted.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    left: int = 0

    async def run(self, url: str) -> None:
        """Attack until cancelled."""
        limits, dice = httpx.Limits(max_connections=None), random.Random(7)
        async with (
            httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(AT_ONCE):
                group.create_task(self.attack(client, random.Random(dice.random())))
            for _ in range(DRIPPING):
                group.create_task(self.drip(client))

    async def attack(self, client: httpx.AsyncClient, dice: random.Random) -> None:
        worst = WORST
        for one in cycle(dice.sample(worst, len(worst))):
            outcome = "client left"
            try:
                async with asyncio.timeout(dice.uniform(0.05, 3) if dice.random() < 1 / 3 else None):
                    outcome = await self.ask(client, one)
            except (TimeoutError, asyncio.CancelledError) as error:
                self.left += one.branches
                if not isinstance(error, TimeoutError):
                    raise
            self.outcomes[f"{one.name}: {outcome}"] += 1
            await asyncio.sleep(0.01)

    async def ask(self, client: httpx.AsyncClient, one: Hostile) -> str:
        headers = bearer(ATTACKER) | {"Content-Type": "application/json"}
        try:
            return str((await client.post(one.path, content=one.content, headers=headers)).status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

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


def attack(url: str, ended: Event, result: Connection) -> None:
    """A process of its own, so that its work does not delay those who measure."""
    attacker = Attacker()

    async def until_told() -> None:
        working = asyncio.create_task(attacker.run(url))
        await asyncio.to_thread(ended.wait)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(until_told())
    result.send(attacker)


@contextmanager
def under_attack(url: str) -> Iterator[list[Attacker]]:
    """Attack for as long as the block lasts; the list holds the attacker afterwards."""
    processes, found = multiprocessing.get_context("spawn"), list[Attacker]()
    ended, (mine, theirs) = processes.Event(), processes.Pipe(duplex=False)
    process = processes.Process(target=attack, args=(url, ended, theirs))
    process.start()
    try:
        yield found
    finally:
        ended.set()
        found.append(mine.recv())
        process.join()


@dataclass(slots=True)
class Memory:
    """MiB of the server's process, and of the answer processes that it has started: first, and at most."""

    pid: int
    first: tuple[float, float] = (0.0, 0.0)
    most: tuple[float, float] = (0.0, 0.0)

    def note(self) -> None:
        children = [int(child) for task in Path(f"/proc/{self.pid}/task").iterdir() for child in children_of(task)]
        now = own_memory(self.pid), sum(map(own_memory, filter(is_python_worker, children)))
        self.first = self.first if self.first[0] else now
        self.most = max(self.most[0], now[0]), max(self.most[1], now[1])

    async def follow(self) -> None:
        while True:
            self.note()
            await asyncio.sleep(0.2)

    @property
    def growth(self) -> tuple[float, float]:
        return self.most[0] - self.first[0], self.most[1] - self.first[1]


def children_of(task: Path) -> list[str]:
    with suppress(OSError):
        return (task / "children").read_text().split()
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
    workers, memory = AnswerPool(1, 10.0), Memory(server.pid)
    started = await asyncio.to_thread(vllm_tokens, vllm)
    try:
        alone = await phase(server.url, min(minutes, 2.0), workers, 1)
        following = asyncio.create_task(memory.follow())
        with under_attack(server.url) as found:
            beside = await phase(server.url, minutes, workers, 2)
        following.cancel()
        await asyncio.to_thread(idle, vllm)
    finally:
        workers.close()
    [attacker] = found
    made = await asyncio.to_thread(vllm_tokens, vllm) - started
    return {
        **times(alone, beside),
        "wrong answers": len(alone.wrong) + len(beside.wrong),
        "first wrong": (alone.wrong + beside.wrong)[:3],
        "restarts": int(made < 0 or not own_memory(server.pid)),
        "memory growth of the server, MiB": round(memory.growth[0], 1),
        "memory growth of the answer processes, MiB": round(memory.growth[1], 1),
        **charges(server, [alone, beside], made, attacker.left),
        **{f"attack, {name}": count for name, count in sorted(attacker.outcomes.items())},
    }


def times(alone: Users, beside: Users) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind in ("plain", "vote"):
        figures[f"{kind}, p99 alone, s"] = alone.p99(kind)
        figures[f"{kind}, p99 under attack, s"] = beside.p99(kind)
        figures[f"{kind}, ratio"] = beside.p99(kind) / alone.p99(kind)
        figures[f"{kind}, answered alone and under attack"] = f"{len(alone.seconds[kind])}, {len(beside.seconds[kind])}"
    return figures


def charges(server: Server, phases: Sequence[Users], made: int, left: int) -> dict[str, Any]:
    """What keys were charged against what replies and vLLM say. Of a branch that is aborted vLLM may have made an event
    that nobody was told of."""
    told = httpx.get(f"{server.url}/metrics", headers=bearer(ADMIN), trust_env=False).text
    owed = sum((users.cost for users in phases), Counter[str]())
    charged = {
        f"user-{number}": metric(told, f'key_tokens_total{{key="client-{number + 1}"}}') for number in range(HONEST)
    }
    known = metric(told, "tokens_total{")
    return {
        "honest keys charged other than their replies say": sum(charged[key] != owed[key] for key in charged),
        "tokens charged to the attacker": metric(told, f'key_tokens_total{{key="client-{HONEST + 1}"}}'),
        "tokens that vLLM generated": made,
        "… for honest users": sum(users.generated for users in phases),
        "… that the service counted": known,
        "… that it was not told of": made - known,
        "… at most, by branches aborted": left * UNTOLD,
    }


def metric(text: str, name: str) -> int:
    """The sum of the service's samples that begin so."""
    lines = [line for line in text.splitlines() if line.startswith(f"outthink_{name}")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def broken(figures: Mapping[str, Any]) -> list[str]:
    """Which promises were not kept."""
    untold, most = figures["… that it was not told of"], figures["… at most, by branches aborted"]
    promises = {
        "answers are as fast": max(figures["plain, ratio"], figures["vote, ratio"]) <= SLOWER,
        "answers are right": not figures["wrong answers"],
        "nothing restarts": not figures["restarts"],
        "memory is bounded": figures["memory growth of the server, MiB"] <= GROWTH
        and figures["memory growth of the answer processes, MiB"] <= 2 * GROWTH,
        "honest keys pay what their replies say": not figures["honest keys charged other than their replies say"],
        "all that was generated is charged": 0 <= untold <= most,
    }
    return [promise for promise, kept in promises.items() if not kept]


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
    if failed := broken(figures):
        console.print(f"broken: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
