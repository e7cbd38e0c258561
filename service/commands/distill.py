"""`outthink distill`: what a strategy finds on a file of questions, as training files, from a running server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.commands.client import CommandError, Key, Url, connect, fail, read_reply, upload_file

console = Console()
LOOK_SECONDS = 1.0
ENDED = ("succeeded", "failed", "cancelled")


def distill(
    questions: Annotated[Path, typer.Argument(help="JSONL: `question` or `messages`, and `answer` for a grader.")],
    model: Annotated[str, typer.Option(help="Who answers them.")],
    strategy: Annotated[str, typer.Option(help="A strategy's name, or its JSON.")] = "self_consistency",
    grader: Annotated[str, typer.Option(help="`math`, or a grader's JSON; without one the vote decides.")] = "",
    k: Annotated[int | None, typer.Option(help="Most winners of a question.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of one answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The first question's seed.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the training files.")] = Path("distillation"),
    url: Url = "http://127.0.0.1:8000",
    key: Key = "",
) -> None:
    """Search, keep the winners, and write them as files for SFT and, with the losers, for DPO."""
    options = {"strategy": parse_object(strategy), "k": k, "max_tokens": max_tokens, "seed": seed}
    if grader:
        options["grader"] = {"type": "math", "name": "math"} if grader == "math" else parse_object(grader)
    with connect(url, key) as client:
        file = upload_file(client, questions, "evals", str(questions))
        given = {name: value for name, value in options.items() if value is not None}
        job = follow_job(
            client, read_reply(client.post("/distillations", json={"model": model, "file": file, **given}))
        )
        if job["status"] != "succeeded":
            fail(f"{job['status']}: {(job['error'] or {}).get('message', 'no reason was given')}", 1)
        for path in download_files(client, job["result_files"], out):
            console.print(path, highlight=False)


def parse_object(text: str) -> Any:
    try:
        return json.loads(text) if text.startswith("{") else text
    except json.JSONDecodeError as error:
        fail(f"{text}: is not valid JSON: {error}", 2)


def follow_job(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Show how far it is until it has ended; Ctrl-C cancels it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("questions", total=None)
            while job["status"] not in ENDED:
                time.sleep(LOOK_SECONDS)
                job = read_reply(client.get(f"/distillations/{job['id']}"))
                done = job["progress"]
                solved = f"questions, {done.get('solved', 0)} solved"
                bar.update(task, completed=done["done"], total=done["total"], description=solved)
    except KeyboardInterrupt:
        read_reply(client.post(f"/distillations/{job['id']}/cancel"))
        fail("cancelled", 130)
    return job


def download_files(client: httpx.Client, files: list[str], folder: Path) -> list[Path]:
    """The training files, by their own names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file in files:
        path = folder / Path(read_reply(client.get(f"/files/{file}"))["filename"]).name
        reply = client.get(f"/files/{file}/content")
        if reply.status_code != httpx.codes.OK:
            raise CommandError(f"{file}: {reply.status_code}")
        path.write_bytes(reply.content)
        paths.append(path)
    return paths
