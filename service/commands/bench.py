"""`outthink bench`: a benchmark on a running server, from a recipe or from flags, with what it is doing shown live."""

from __future__ import annotations

import json
import time
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from service.commands.client import CommandError, Key, Url, connect, fail, read_reply, upload_file
from service.commands.plot import plot
from service.durations import spell

console = Console()
FILES = {"report.html": "report", "results.csv": "results.csv", "samples.jsonl": "samples.jsonl"}
AGAIN_SECONDS = 1.0
PATIENCE_SECONDS = 300.0
"""How long a server may be away, for a restart, before its benchmark is left alone."""
QUICK_SECONDS = 285.0
"""Five minutes, less what begins before it and comes behind it: placing the benchmark, its figures and its report."""


def bench(
    recipe: Annotated[Path | None, typer.Argument(help="A TOML or YAML file: the body of POST /v1/benchmarks.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model to measure; several to compare them.")] = None,
    dataset: Annotated[str, typer.Option(help="`arithmetic`, `gsm8k`, `math-500`, `aime`, or a JSONL file.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many questions.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="A strategy's name, or its JSON; several times.")] = None,
    samples: Annotated[str, typer.Option(help="Sizes, as in 1,2,4,8.")] = "",
    budgets: Annotated[str, typer.Option(help="Budgets in tokens, as in 512,1024; instead of sizes.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one answer.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    url: Url = "http://127.0.0.1:8000",
    key: Key = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: benchmark-ID.")] = None,
    looked_into: Annotated[
        int | None,
        typer.Option("--questions", min=0, help="How many questions the report shows; 0 to hand it on without."),
    ] = None,
    fail_under: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit 1 unless the most accurate cell reaches this.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Only as many questions as fit in five minutes.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say how large it would be.")] = False,
    resume: Annotated[str, typer.Option(help="Go on with this benchmark, or only follow it while it runs.")] = "",
) -> None:
    """Measure accuracy against compute on a running server, and write the report."""
    flags = {
        "model": model,
        "samples": parse_numbers(samples, "samples"),
        "budgets": parse_numbers(budgets, "budgets"),
        "seeds": seeds,
        "concurrency": concurrency,
        "seconds": QUICK_SECONDS if quick else None,
        "strategies": parse_strategies(strategy),
    }
    if resume and (dry_run or quick):
        fail(f"{'--dry-run' if dry_run else '--quick'}: is about a new benchmark, and --resume makes none", 2)
    with connect(url, key) as client:
        if out and not dry_run:
            make_folder(out)
        if resume:
            job = resume_job(client, resume)
        else:
            body = read_recipe(recipe) | {name: value for name, value in flags.items() if value}
            if max_tokens:
                body["sampling"] = {**mapping(body, "sampling"), "max_tokens": max_tokens}
            said = {} if dataset else mapping(body, "dataset")
            body["dataset"] = prepare_dataset(client, said, dataset, limit, recipe)
            body["dry_run"] = dry_run = dry_run or bool(body.get("dry_run"))
            job = read_reply(client.post("/benchmarks", json=body))
        if dry_run:
            console.print(f"{job['requests']:,} requests, at most {job['tokens']:,} tokens")
            return
        job = follow_job(client, job["id"])
        folder = download_results(client, job, make_folder(out or Path(f"benchmark-{job['id']}")), looked_into)
    show_results(job)
    console.print(f"{job['status']}; the report is {folder / 'report.html'}", highlight=False, soft_wrap=True)
    exit_unless_good(job, fail_under)


def parse_numbers(text: str, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        fail(f"--{name}: must be numbers with commas between them, not {text!r}", 2)


def parse_strategies(texts: list[str] | None) -> list[Any]:
    try:
        return [json.loads(text) if text.startswith("{") else text for text in texts or ()]
    except json.JSONDecodeError as error:
        fail(f"--strategy: is not valid JSON: {error}", 2)


def read_recipe(recipe: Path | None) -> dict[str, Any]:
    """The recipe, which has the fields of the request."""
    if recipe is None:
        return {}
    try:
        text = recipe.read_text()
        body = tomllib.loads(text) if recipe.suffix == ".toml" else yaml.safe_load(text)
        json.dumps(body, allow_nan=False)  # dates, and numbers that are none, cannot be sent
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise CommandError(f"{recipe}: {error}") from error
    if not isinstance(body, dict):
        raise CommandError(f"{recipe}: must hold the fields of a benchmark")
    return body


def mapping(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A field of the recipe that has fields of its own."""
    said = body.get(field, {})
    if not isinstance(said, dict):
        raise CommandError(f"{field}: must have fields of its own, and not be {said!r}")
    return said


def prepare_dataset(
    client: httpx.Client, said: Mapping[str, Any], flag: str, limit: int | None, recipe: Path | None
) -> Any:
    """The dataset that the recipe or the flag names; a file that is here is uploaded first."""
    if flag:
        said = {"file": flag} if Path(flag).is_file() or flag.startswith("file-") else {"name": flag}
    counted = {"questions" if said.get("name") == "arithmetic" else "limit": limit} if limit else {}
    name = said.get("file")
    if isinstance(name, str) and not name.startswith("file-"):
        path = Path(name) if flag or recipe is None else recipe.parent / name
        said = {**said, "file": upload_file(client, path, "evals", "dataset.file")}
    return {**said, **counted}


def resume_job(client: httpx.Client, benchmark_id: str) -> dict[str, Any]:
    """One that has ended early goes on; one that runs is only followed."""
    job = read_reply(client.get(f"/benchmarks/{benchmark_id}"))
    ended_early = job["status"] in ("failed", "cancelled")
    return read_reply(client.post(f"/benchmarks/{benchmark_id}/resume")) if ended_early else job


def follow_job(client: httpx.Client, benchmark_id: str) -> dict[str, Any]:
    """Show what happens until it has ended; Ctrl-C cancels it."""
    try:
        with Display(benchmark_id) as display:
            for event in events(client, benchmark_id):
                display.show(event)
    except KeyboardInterrupt:
        cancel_job(client, benchmark_id)
    return read_reply(client.get(f"/benchmarks/{benchmark_id}"))


def cancel_job(client: httpx.Client, benchmark_id: str) -> NoReturn:
    """Cancel it, wait until that is so, and say how to go on."""
    again = f"`outthink bench --resume {benchmark_id}`"
    try:
        read_reply(client.post(f"/benchmarks/{benchmark_id}/cancel"))
        deque(events(client, benchmark_id), maxlen=0)
    except httpx.TransportError as error:
        fail(f"not cancelled, the server is away ({error}): {again} follows it when it is back", 130)
    fail(f"cancelled; {again} goes on with it", 130)


def events(client: httpx.Client, benchmark_id: str) -> Iterator[dict[str, Any]]:
    """The events, each once, also over a restart of the server."""
    seen, since = 0, time.monotonic()
    while True:
        number = 0
        try:
            with client.stream("GET", f"/benchmarks/{benchmark_id}/events") as stream:
                if stream.is_server_error or stream.status_code == 429:
                    raise httpx.NetworkError(f"it answers {stream.status_code}")
                if stream.is_client_error:
                    stream.read()
                    read_reply(stream)  # the benchmark is gone, or the key
                for line in stream.iter_lines():
                    since = time.monotonic()
                    if line == "data: [DONE]":
                        return
                    if not line.startswith("data: "):
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    number += event["type"] != "progress"
                    if event["type"] == "progress" or number > seen:
                        yield event
                    seen = max(seen, number)
        except httpx.TransportError:
            if time.monotonic() - since > PATIENCE_SECONDS:
                raise
        time.sleep(AGAIN_SECONDS)


class Display:
    """A bar with the time left, and the running figures of every task; a line for each event where nobody looks."""

    def __init__(self, benchmark_id: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[left]}"), console=console)
        self.task = self.bar.add_task(benchmark_id, total=None, left="")
        self.live = Live(self.bar, console=console, refresh_per_second=4)

    def __enter__(self) -> Display:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()
        if not console.is_terminal:
            console.line()  # in a log the last frame ends without one

    def show(self, event: Mapping[str, Any]) -> None:
        if event["type"] != "progress":
            self.live.console.print(event["message"], markup=False, highlight=False)
            return
        eta = event["eta_seconds"]
        left = event["status"] if eta is None else f"{spell(eta)} left"
        self.bar.update(self.task, completed=event["done"], total=event["total"], left=left)
        self.live.update(Group(running(event["tasks"], console.height - 3), self.bar))


def running(tasks: list[dict[str, Any]], rows: int) -> Table:
    """The last tasks that have begun, as many as there is room for: what is too high loses its end, with the bar."""
    name = Column("strategy", no_wrap=True)
    shown = Table(name, "size", "done", "accuracy", "tokens a request", box=None)
    for task in [task for task in tasks if task["done"]][-max(rows, 1) :]:
        figures = (f"{task['accuracy']:.1%}", f"{task['tokens']:,.0f}")
        shown.add_row(escape(label(task, tasks)), size(task), f"{task['done']}/{task['total']}", *figures)
    return shown


def label(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """What a row is about; the model is named where there are several."""
    several = len({other["model"] for other in rows}) > 1
    return f"{row['model']}: {row['name']}" if several else str(row["name"])


def size(row: Mapping[str, Any]) -> str:
    """A row's size, or its budget; what a rule may end early is of at most its size."""
    return f"≤ {row['samples']}" if row["stops_early"] and row["samples"] else str(row["samples"] or row["budget"])


def make_folder(folder: Path) -> Path:
    """The folder, there now: before hours of work, where its name is known."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out: {error}") from error
    return folder


def download_results(client: httpx.Client, job: Mapping[str, Any], folder: Path, questions: int | None) -> Path:
    """Write what the server hands out."""
    (folder / "benchmark.json").write_text(json.dumps(job, indent=1) + "\n")
    for name, path in FILES.items():
        shown = {"questions": questions} if path == "report" and questions is not None else {}
        url = f"/benchmarks/{job['id']}/{path}"
        with client.stream("GET", url, params=shown) as response, (folder / name).open("wb") as file:
            if response.is_error:
                response.read()
                read_reply(response)
            for part in response.iter_bytes():
                file.write(part)
    return folder


def show_results(job: Mapping[str, Any]) -> None:
    """The table and the plot, and of how many questions they are where that is not all."""
    cells, asked = job["results"], job["grid"]["questions"]
    if cells:
        console.print(table(cells))
    if figure := plot([label(cell, cells) for cell in cells], cells, console.width):
        console.print(figure)
    if cells and cells[0]["n_questions"] < asked:
        console.print(f"{cells[0]['n_questions']} of {asked} questions, the same for every strategy", highlight=False)


def table(cells: list[dict[str, Any]]) -> Table:
    figures = ("size", "accuracy", "95 %\ninterval", "pass@k", "majority\n@k", "tokens", "seconds")
    columns = (Column(name, justify="right", no_wrap=True) for name in figures)
    shown = Table("strategy", *columns, box=SIMPLE_HEAD, padding=0)
    for cell in cells:
        seconds = "" if cell["seconds"] is None else f"{cell['seconds']:.1f}"
        low, high = cell["ci"]
        shown.add_row(
            f"{escape(label(cell, cells))}{' ★' if cell['pareto'] else ''}",
            size(cell),
            f"{cell['accuracy']:.1%}",
            f"{100 * low:.1f}–{high:.1%}",
            f"{cell['pass_at_k']:.1%}",
            f"{cell['majority_at_k']:.1%}",
            f"{cell['tokens']['policy'] + cell['tokens']['scorer']:,.0f}",
            seconds,
        )
    return shown


def exit_unless_good(job: Mapping[str, Any], fail_under: float | None) -> None:
    """Exit 1 when it did not succeed, or no cell is accurate enough."""
    if job["status"] != "succeeded":
        fail(job["error"]["message"] if job["error"] else job["status"], 1)
    best = max((cell["accuracy"] for cell in job["results"]), default=0.0)
    if fail_under is not None and best < fail_under:
        fail(f"the most accurate cell has {best:.1%}, less than {fail_under:.1%}", 1)
