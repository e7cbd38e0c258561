"""What a benchmark writes down: a line for every question, task and seed, from which every figure can be recomputed.

Lines are appended as they are done (jobs/journal.py); after a crash only the questions in flight are asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.benchmarks.questions import Item
from service.benchmarks.recipe import Task
from service.chat.execution import Execution
from service.chat.reply import finish_reason, usage_by_role
from service.jobs.journal import Journal
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


def answer_line(head: Line, run: Execution, grades: Sequence[float], threshold: float) -> Line:
    """What came of it. `chosen` is the id of the candidate that the request returned."""
    assert run.outcome is not None, "the run has ended"
    round_, session = run.outcome.round, run.session
    pairs = zip(round_.candidates, grades, strict=True)
    graded = [candidate_line(c) | {"grade": g, "correct": g >= threshold} for c, g in pairs]
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
        "undecided": run.reader.undecided,
        "error": None,
    }


def refusal_line(head: Line, run: Execution, error: str) -> Line:
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
        "undecided": run.reader.undecided,
        "error": error,
    }


def candidate_line(candidate: Candidate) -> Line:
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


def samples(folder: Path) -> Journal:
    """What a benchmark has done so far."""
    return Journal(folder / SAMPLES)


def write_questions(folder: Path, items: Sequence[Item]) -> None:
    """Keep the questions, so that whatever becomes of their source, the job can go on."""
    Journal(folder / QUESTIONS).append(dict(item) for item in items)


def read_questions(folder: Path) -> list[Item]:
    return list(Journal(folder / QUESTIONS))
