"""What checking and stopping are worth without training: GSM8K, and thirty programming tasks, on the demo model.

    python -m benchmarks.untrained --file gsm8k-test.jsonl --questions 40

starts a server of its own, and prints two Markdown tables and what the scorer `equations` said of the samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.lab.jobs import Lab
from benchmarks.lab.scale import Scale
from benchmarks.lab.server import serve
from service.benchmarks.programs import PROGRAMS, Program
from service.commands.client import CommandError, read_reply

SAMPLES = 8
SUMS = "{{item.question}}\n\nThink step by step, one equation a line, and put the final answer in \\boxed{}."
STRATEGIES: Sequence[Mapping[str, Any]] = (
    {"type": "best_of_n", "scorer": "equations", "samples": [SAMPLES]},
    {"type": "self_consistency", "stop": {"rule": "adaptive"}, "samples": [SAMPLES]},
)
MAX_TOKENS = 256
AT_ONCE = 8  # requests

console = Console()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: how often it was right, and what it cost a question."""

    name: str
    accuracy: float
    tokens: float

    def __str__(self) -> str:
        return f"| {self.name} | {self.accuracy:.1%} | {self.tokens:.0f} |"


def measure_sums(lab: Lab, file: Path, questions: int) -> None:
    """The vote with and without stopping, and what `equations` knows of the samples."""
    lines = list(benchmark(lab, file, questions))
    full, stopped = ([line for line in lines if line["strategy"]["type"] == s["type"]] for s in STRATEGIES)
    candidates = [candidate for line in full for candidate in line["candidates"]]
    rows = [
        Row("one sample", fmean(c["correct"] for c in candidates), fmean(c["tokens"] for c in candidates)),
        Row(f"majority of {SAMPLES}", fmean(map(majority, full)), fmean(map(spent, full))),
        Row(f"majority, adaptive, at most {SAMPLES}", fmean(map(chosen, stopped)), fmean(map(spent, stopped))),
        Row(f"best of {SAMPLES} by equations", fmean(map(chosen, full)), fmean(map(spent, full))),
    ]
    show(f"GSM8K, {len(full)} questions", rows)
    for verdict, said in (("hold", 1.0), ("do not all hold", 0.0), ("are none that can be checked", None)):
        found = [c["correct"] for c in candidates if c["score"] == said]
        right = f"{fmean(found):.1%} of them are right" if found else ""
        console.print(f"- Equations {verdict}: {len(found) / len(candidates):.1%} of the samples; {right}")


def benchmark(lab: Lab, file: Path, questions: int) -> Iterator[dict[str, Any]]:
    """A line for every question and strategy."""
    rows = list(map(json.loads, file.read_text().splitlines()[:questions]))
    body = {
        "dataset": {"file": lab.upload("questions", rows)},
        "messages": [{"role": "user", "content": SUMS}],
        "strategies": STRATEGIES,
        "sampling": {"max_tokens": MAX_TOKENS},
        "seeds": [1],
        "concurrency": AT_ONCE,
    }
    path = f"/benchmarks/{lab.post('/benchmarks', body)['id']}"
    job = lab.follow("GSM8K", path)
    if job["status"] != "succeeded":
        raise CommandError(f"the benchmark {job['status']}: {job.get('error')}")
    yield from map(json.loads, lab.client.get(f"{path}/samples.jsonl").raise_for_status().text.splitlines())


def majority(line: Mapping[str, Any]) -> bool:
    """Whether the answer with the most votes is right, the first among equals."""
    groups = [c["group"] for c in line["candidates"] if c["group"] is not None]
    if not groups:
        return False
    best = max(dict.fromkeys(groups), key=groups.count)
    return bool(next(c["correct"] for c in line["candidates"] if c["group"] == best))


def chosen(line: Mapping[str, Any]) -> bool:
    return any(c["correct"] for c in line["candidates"] if c["id"] == line["chosen"])


def spent(line: Mapping[str, Any]) -> int:
    return int(line["usage"]["policy"]["completion"])


def measure_programs(client: httpx.Client) -> None:
    """One sample, the best of several by the tests, and, read off the same samples in their order, what the rule
    `verified` would have drawn one by one."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        best = [*track(threads.map(partial(ask, client), PROGRAMS), "programs", len(PROGRAMS))]
    every = [c for reply in best for c in reply["candidates"]]
    rows = [
        Row("one sample (pass@1)", fmean(c["score"] == 1 for c in every), fmean(c["tokens"] for c in every)),
        Row(f"best of {SAMPLES} by tests", fmean(map(passed, best)), fmean(map(spent, best))),
        Row(f"until one passes, at most {SAMPLES}", fmean(map(passed, best)), fmean(map(spent_until_passed, best))),
    ]
    show(f"{len(PROGRAMS)} programming tasks", rows)
    unknown = fmean(c["score"] is None for c in every)
    console.print(f"- No opinion, since the sandbox does not support what the code uses: {unknown:.1%} of the samples")


def ask(client: httpx.Client, program: Program) -> dict[str, Any]:
    """The `outthink` key of one reply."""
    scorer = {"type": "tests", "tests": program.tests}
    body = {
        "messages": [{"role": "user", "content": program.question}],
        "strategy": {"type": "best_of_n", "samples": SAMPLES, "scorer": scorer},
        "include": ["candidates"],
        "max_tokens": MAX_TOKENS,
        "seed": 1,
    }
    reply: dict[str, Any] = read_reply(client.post("/chat/completions", json=body))["outthink"]
    return reply


def passed(reply: Mapping[str, Any]) -> bool:
    return any(candidate["score"] == 1 for candidate in reply["candidates"])


def spent_until_passed(reply: Mapping[str, Any]) -> int:
    """Tokens of the samples up to the first that passes all tests."""
    tokens = 0
    for candidate in sorted(reply["candidates"], key=lambda c: c["id"]):
        tokens += candidate["tokens"]
        if candidate["score"] == 1:
            break
    return tokens


def show(title: str, rows: Sequence[Row]) -> None:
    console.print(f"\n**{title}**\n\n| policy | right | tokens |\n| --- | --- | --- |", highlight=False)
    for row in rows:
        console.print(str(row), highlight=False)
    console.print()


def main(
    file: Annotated[
        Path | None, typer.Option(help="Questions with `question` and `answer`, as GSM8K's; else none.")
    ] = None,
    questions: Annotated[int, typer.Option(help="How many of them.")] = 40,
) -> None:
    """Measure, and print."""
    with TemporaryDirectory() as folder, serve(Path(folder)) as client:
        measure_programs(client)
        if file is not None:
            measure_sums(Lab(client, Path(folder), Scale()), file, questions)


if __name__ == "__main__":
    typer.run(main)
