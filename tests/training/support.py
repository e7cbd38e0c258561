"""What the tests of training share: a tokenizer of characters, jobs in a store, and children that need no torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from service.jobs import Checkpoint, Job, Store
from service.jobs.methods import METHODS
from service.jobs.training import TrainingSpec
from training.task import Done, Facts, Note, Published, Stopped, Task

USER = {"role": "user", "content": "What is 6 * 7?"}
ASSISTANT = {"role": "assistant", "content": "42"}


class Characters:
    """A tokenizer whose ids are code points; `<u:…>` is a turn, and `forgets` drops what earlier turns thought."""

    def __init__(self, forgets: bool = False) -> None:
        self.forgets = forgets

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        text = f"[{options['tools']}]" if options.get("tools") else ""
        for i, message in enumerate(messages):
            content = message["content"] + "".join(repr(call["function"]["arguments"]) for call in calls(message))
            if self.forgets and message["role"] == "assistant" and i < len(messages) - 1:
                content = content.rpartition("!")[2]
            text += f"<{message['role'][0]}:{content}>"
        return self.encode(text + ("<a:" if options["add_generation_prompt"] else ""))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1] if text == "Yes" else [2] if text == "No" else [ord(character) for character in text]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(i) for i in ids if i != 0 or not skip_special_tokens)


def calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = message.get("tool_calls") or []
    return found


def spec(method: str = "supervised", extras: dict[str, Any] | None = None, **fields: Any) -> TrainingSpec:
    record = METHODS[method]
    return TrainingSpec(
        method=method,
        training_file=fields.pop("training_file", "file-1"),
        validation_file=fields.pop("validation_file", None),
        suffix="test",
        seed=7,
        grader=fields.pop("grader", None),
        hyperparameters=record.hyperparameters(**fields),
        outthink=record.extras(**(extras or {})),
    )


def queued(store: Store, rows: bytes = b'{"messages": []}\n', **fields: Any) -> Job:
    """A new job on a file of these bytes."""
    file = store.write_file("fine-tune", "rows.jsonl", rows)
    model = fields.pop("model", "smollm2")
    return store.create_job("fine_tuning", model, spec(training_file=file.id, **fields).model_dump(mode="json"))


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until it holds; only a failing test waits that long."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not so after {seconds} s"
        time.sleep(0.01)


def trains(task: Task, connection: Connection, worker: int) -> None:
    """A child that reports as one that trains does."""
    connection.send(Facts({"step": 1}))
    connection.send(Note("Step 1/1", {"step": 1, "train_loss": 0.5}))
    name = task.name()
    connection.send(
        Published(
            Checkpoint(name, task.job.id, "smollm2", "supervised", "adapter", 1, f"checkpoints/{name}", "0", {}, 7)
        )
    )
    connection.send(Done({"fine_tuned_model": name}, [{"step": 1, "train_loss": 0.5}, {"step": 2, "valid_loss": 0.25}]))


def dies(task: Task, connection: Connection, worker: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lingers(task: Task, connection: Connection, worker: int) -> None:
    """A child that stops only when it is asked to."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    started(task)
    while not stopped:
        time.sleep(0.01)
    connection.send(Stopped())


def starts(task: Task, connection: Connection, worker: int) -> None:
    """A child that is still starting, and so not yet listening."""
    started(task)
    time.sleep(600)


def hangs(task: Task, connection: Connection, worker: int) -> None:
    """A child that does not stop when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started(task)
    time.sleep(600)


def started(task: Task) -> None:
    """Leave a save, and this process's pid where a test finds it."""
    (task.folder / "checkpoint-1").mkdir(parents=True)
    partial = task.folder / "pid.part"
    partial.write_text(str(os.getpid()))
    partial.rename(task.folder / "pid")


def pid_file(data: Path, job: Job) -> Path:
    return data.absolute() / "jobs" / job.id / "pid"
