"""The server as the lab uses it, and what is done already: a job for every stage, in a file."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.lab.scale import Scale
from service.commands.client import CommandError, read_reply

LOOK_SECONDS = 2.0
ENDED = ("succeeded", "failed", "cancelled")
SEED = 7
REPORTED = ("report", "samples.jsonl")

Body = dict[str, Any]
State = dict[str, Any]
console = Console()


@dataclass(frozen=True, slots=True)
class Request:
    """The job of a stage: where it is asked for, and how."""

    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A stage for which the ones before it left nothing to do."""

    why: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One job, made from the results of earlier ones when its turn has come. `about` is filled in with what it came
    to; `minutes` are expected."""

    name: str
    about: str
    minutes: float
    create: Callable[[Lab], Request | Skipped]


@dataclass(slots=True)
class Lab:
    """The server, and the results by stage."""

    client: httpx.Client
    folder: Path
    scale: Scale
    state: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = read_state(self.folder, self.scale)

    def run(self, stages: Sequence[Stage]) -> None:
        """Do what is not done."""
        for number, stage in enumerate(stages, 1):
            console.print(f"[{number}/{len(stages)}] {stage.name}", highlight=False, markup=False)
            self.do(stage)

    def do(self, stage: Stage) -> None:
        """See to it that a stage's job has succeeded, and that what it measured is in the folder."""
        record = self.state.get(stage.name)
        if record is None:
            record = self.begin(stage)
        if "skipped" in record:
            return
        if "job" not in record:
            self.finish(stage, record)
        if record["path"].startswith("/benchmarks/"):
            self.download(stage.name, record["path"])

    def begin(self, stage: Stage) -> dict[str, Any]:
        """Make the job, and write down at once that it was made."""
        made = stage.create(self)
        if isinstance(made, Skipped):
            record: dict[str, Any] = {"skipped": made.why}
        else:
            record = {"path": f"{made.path}/{self.post(made.path, made.body)['id']}", "seconds": 0.0}
        self.keep(stage.name, record)
        return record

    def finish(self, stage: Stage, record: dict[str, Any]) -> None:
        """Wait for the job. One that has failed is forgotten, so that the next lab makes another."""
        began = time.monotonic()
        try:
            job = self.follow(stage.name, record["path"])
        finally:
            record["seconds"] += time.monotonic() - began
            self.keep(stage.name, record)
        if job["status"] != "succeeded":
            del self.state[stage.name]
            self.save()
            raise CommandError(f"{stage.name} {job['status']}: {(job.get('error') or {}).get('message')}")
        self.keep(stage.name, {**record, "job": job})
        record["job"] = job

    def follow(self, name: str, path: str) -> dict[str, Any]:
        """Show how far a job is until it has ended."""
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(name, total=None, said="queued")
            while (job := read_reply(self.client.get(path)))["status"] not in ENDED:
                done, total, said = progress(job)
                bar.update(task, completed=done, total=total, said=said)
                time.sleep(LOOK_SECONDS)
            bar.update(task, completed=1, total=1, said=job["status"])
        return job

    def download(self, name: str, path: str) -> None:
        for kind in REPORTED:
            target = report_file(self.folder, name, kind)
            if not target.exists():
                partial = target.with_name(f"{target.name}.partial")
                partial.write_bytes(self.client.get(f"{path}/{kind}").raise_for_status().content)
                partial.replace(target)

    def keep(self, name: str, value: Any) -> None:
        self.state[name] = value
        self.save()

    def save(self) -> None:
        partial = state_file(self.folder).with_suffix(".partial")
        partial.write_text(json.dumps(self.state, indent=1))
        partial.replace(state_file(self.folder))

    # What stages are made of

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return read_reply(self.client.post(path, json=body))

    def upload(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        reply = self.client.post("/files", data={"purpose": "fine-tune"}, files={"file": (f"{name}.jsonl", content)})
        return str(read_reply(reply)["id"])

    def rows(self, file: str | None) -> list[dict[str, Any]]:
        """The rows of a file that a job made; none where it made none."""
        if file is None:
            return []
        content = self.client.get(f"/files/{file}/content").raise_for_status().text
        return [json.loads(line) for line in content.splitlines()]

    def base(self) -> str:
        """The model that the server serves."""
        return str(read_reply(self.client.get("/models"))["data"][0]["id"])

    def job(self, name: str) -> dict[str, Any] | None:
        """A stage's job; None where there was nothing to do."""
        found: dict[str, Any] | None = self.state[name].get("job")
        return found

    def model(self, name: str) -> str:
        """What a stage that is never skipped has trained."""
        return str(self.state[name]["job"]["fine_tuned_model"])

    def trained(self, *names: str) -> str | None:
        """What the first of these stages that was not skipped has trained."""
        return next((str(job["fine_tuned_model"]) for name in names if (job := self.job(name))), None)


def state_file(folder: Path) -> Path:
    return folder / "lab.json"


def report_file(folder: Path, name: str, kind: str) -> Path:
    plain = re.sub(r"[^\w@]+", "-", name).strip("-")
    return folder / f"{plain}-{kind}{'.html' if kind == 'report' else ''}"


def read_state(folder: Path, scale: Scale) -> State:
    """What is done; raise CommandError for what was done at another scale, which would be mixed with this one's."""
    asked = json.loads(json.dumps(asdict(scale)))
    file = state_file(folder)
    if not file.exists():
        return {"scale": asked}
    state: State = json.loads(file.read_text())
    if state.get("scale") != asked:
        raise CommandError(f"{folder} holds another lab: move it away, or choose another --folder")
    return state


def progress(job: Mapping[str, Any]) -> tuple[float, float | None, str]:
    """How far a job of any kind is, and a word about it."""
    now = job["progress"] if "progress" in job else job["outthink"]["progress"]
    if "total_steps" in now:
        said = f"loss {now['loss']:.3f}" if "loss" in now else ""
        return now.get("step", 0), now["total_steps"], f"step {now.get('step', 0)} of {now['total_steps']} {said}"
    if "marked" in now:
        return now["marked"], now["questions"], f"{now['marked']} of {now['questions']} questions marked"
    if "done" in now:
        return now["done"], now["total"], f"{now['done']} of {now['total']}"
    return 0, None, str(job["status"])
