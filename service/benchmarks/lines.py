"""What a benchmark writes down: a line for every question, task and seed, from which every figure can be recomputed.

Lines are appended as they are done and synced to disk. After a crash the file may end in half a line; that one is cut
off, and its question asked again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from mmap import mmap
from pathlib import Path
from typing import Any

import orjson

from service.benchmarks.questions import Item
from service.benchmarks.recipe import Task
from service.chat.execution import Execution
from service.chat.reply import finish_reason, usage_by_role
from strategies.types import Candidate

Line = dict[str, Any]
Key = tuple[int, int, int]
"""The numbers of the task and the question, and the seed."""

SAMPLES = "samples.jsonl"
QUESTIONS = "questions.jsonl"


def key(line: Mapping[str, Any]) -> Key:
    return line["task"], line["index"], line["seed"]


def head(number: int, task: Task, index: int, item: Item, seed: int) -> Line:
    """What was asked."""
    return {
        "task": number,
        "model": task.model,
        "name": task.name,
        "strategy": task.strategy,
        "samples": None if task.budget else task.size,
        "budget": task.budget,
        "index": index,
        "id": item["id"],
        "seed": seed,
        "question": item["question"],
        "reference": item["answer"],
    }


def answered(head: Line, run: Execution, grades: Sequence[float], threshold: float) -> Line:
    """What came of it. `chosen` is the id of the candidate that the request returned."""
    assert run.outcome is not None, "the run has ended"
    round_, session = run.outcome.round, run.session
    graded = [
        shown(c) | {"grade": g, "correct": g >= threshold} for c, g in zip(round_.candidates, grades, strict=True)
    ]
    return head | {
        "strategy": dict(run.order.resolved),
        "chosen": round_.ranked[0].id,
        "candidates": graded,
        "votes": [{"answer": vote.answer, "count": vote.count, "weight": vote.weight} for vote in round_.votes],
        "usage": usage_by_role(session),
        "flops": run.flops,
        "seconds": round(session.seconds, 3),
        "stopped_by": run.outcome.stopped_by,
        "failed": session.failed,
        "error": None,
    }


def refused(head: Line, run: Execution, error: str) -> Line:
    """A question that could not be answered, through its own fault or that of its budget: wrong, and counted apart."""
    return head | {
        "chosen": None,
        "candidates": [],
        "votes": [],
        "usage": usage_by_role(run.session),
        "flops": run.flops,
        "seconds": round(run.session.seconds, 3),
        "stopped_by": None,
        "failed": run.session.failed,
        "error": error,
    }


def shown(candidate: Candidate) -> Line:
    """A candidate; `group` numbers the class of its answer, and is null where it does not vote."""
    steps = {"steps": [step.text for step in candidate.steps]} if len(candidate.steps) > 1 else {}
    return {
        "id": candidate.id,
        "text": candidate.text,
        **steps,
        "answer": candidate.answer,
        "group": candidate.group if candidate.votes else None,
        "score": candidate.score,
        "scores": candidate.scores,
        "tokens": candidate.tokens,
        "finish_reason": finish_reason(candidate.last),
    }


def write_questions(folder: Path, items: Sequence[Item]) -> None:
    """Keep the questions, so that whatever becomes of their source, the job can go on."""
    folder.mkdir(parents=True)
    append(folder / QUESTIONS, [dict(item) for item in items])


def read_questions(folder: Path) -> list[Item]:
    return [orjson.loads(line) for line in (folder / QUESTIONS).read_bytes().splitlines()]


def append(path: Path, lines: Sequence[Line]) -> None:
    """Add lines and wait until they are on disk."""
    with path.open("ab") as file:
        file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def whole(path: Path) -> Iterator[bytes]:
    """The lines so far, as they are; half a line at the end is none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


def read(path: Path) -> Iterator[Line]:
    """The lines so far."""
    return map(orjson.loads, whole(path))


def mend(path: Path) -> None:
    """Cut off half a line at the end, so that the next one begins on its own."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        with mmap(file.fileno(), 0) as data:
            end = data.rfind(b"\n") + 1
        file.truncate(end)
