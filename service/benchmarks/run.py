"""Doing benchmarks: every question to every task of the grid, with a bounded number of requests in flight."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from service.background.executor import Executor, Result, drain, patiently
from service.benchmarks import lines, results
from service.benchmarks.grading import CandidateGrader, judge
from service.benchmarks.lines import Key, Line
from service.benchmarks.questions import Item
from service.benchmarks.recipe import Task, chat, from_spec
from service.chat.execution import Execution
from service.chat.order import create_order
from service.context import Context
from service.disk import rename
from service.jobs import Job, Store
from service.threads import in_thread
from service.web.middleware import RequestInfo
from service.wire.benchmarks import BenchmarkRequest
from strategies.errors import BudgetSpent, DeadlineExceeded, EngineRefused, ScorerError

DELETED = ".deleted"
"""Ends the name of a folder whose job is being deleted."""


@dataclass(slots=True)
class TaskProgress:
    """How far one task is, for people who wait."""

    done: int = 0
    correct: int = 0
    tokens: int = 0

    def add(self, line: Line) -> None:
        self.done += 1
        self.correct += results.chosen(line, "correct") or False
        self.tokens += sum(part["completion"] for part in line["usage"].values())

    def as_dict(self, task: Task, total: int) -> dict[str, Any]:
        rates = {"accuracy": self.correct / self.done, "tokens": self.tokens / self.done} if self.done else {}
        size = {"samples": None if task.budget else task.size, "budget": task.budget}
        return {"model": task.model, "name": task.name, **size, "done": self.done, "total": total, **rates}


@dataclass(slots=True)
class BenchmarkRun:
    """One job being done."""

    context: Context
    job: Job
    owner: str
    request: BenchmarkRequest
    tasks: Sequence[Task]
    items: Sequence[Item]
    folder: Path
    judge: CandidateGrader
    done: set[Key]
    tallies: list[TaskProgress]
    started: float = field(default_factory=time.monotonic)
    before: float = 0.0  # work that was done when it began
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def begin(cls, context: Context, job: Job, owner: str) -> BenchmarkRun:
        """Read what there is of the job. Slow: it reads files."""
        request, tasks = from_spec(job.spec)
        folder = home(context, job)
        samples = lines.samples(folder)
        samples.recover()
        tallies = [TaskProgress() for _ in tasks]
        done = set()
        for line in samples:
            done.add(lines.key(line))
            tallies[line["task"]].add(line)
        items = lines.read_questions(folder)
        doing = cls(context, job, owner, request, tasks, items, folder, judge(request, context), done, tallies)
        doing.before = doing.work
        return doing

    @property
    def per_task(self) -> int:
        return len(self.items) * len(self.request.seed_list)

    @property
    def work(self) -> float:
        """What is done, a task's question counting as its size."""
        return sum(tally.done * task.size for tally, task in zip(self.tallies, self.tasks, strict=True))

    def left(self) -> Iterator[Key]:
        """What is not done yet: task by task, and all seeds of a question before the next question."""
        for task in range(len(self.tasks)):
            for question in range(len(self.items)):
                for seed in self.request.seed_list:
                    if (task, question, seed) not in self.done:
                        yield task, question, seed

    def progress(self) -> dict[str, Any]:
        all_work = sum(task.size for task in self.tasks) * self.per_task
        gained, elapsed = self.work - self.before, time.monotonic() - self.started
        eta = elapsed * (all_work - self.work) / gained if gained else None
        return {
            "done": len(self.done),
            "total": len(self.tasks) * self.per_task,
            "eta_seconds": None if eta is None else round(eta, 1),
            "tasks": [y.as_dict(task, self.per_task) for y, task in zip(self.tallies, self.tasks, strict=True)],
        }

    async def run(self) -> None:
        """Do all that is left; raise the error that a later try might not meet."""
        await drain(self.left(), self.request.concurrency, self.take)

    async def take(self, key: Key) -> None:
        """Ask one question of one task, and write down what came."""
        line = await self.ask(*key)
        async with self.writing:
            await in_thread(lines.samples(self.folder).append, [line])
            self.done.add(key)
            task, tally = self.tasks[key[0]], self.tallies[key[0]]
            tally.add(line)
            await self.tell()
            if tally.done == self.per_task:
                shown = tally.as_dict(task, self.per_task)
                await self.note(f"{task.name} ({task.extent}): {tally.correct} of {tally.done} correct", shown)

    async def note(self, message: str, data: dict[str, Any] | None = None) -> None:
        await in_thread(self.context.store.note, self.job.id, "info", message, data)

    async def tell(self) -> None:
        """Write down how far it is."""
        await in_thread(self.context.store.progress, self.job.id, self.owner, **self.progress())

    async def ask(self, number: int, question: int, seed: int) -> Line:
        """One question to one task."""
        task, item = self.tasks[number], self.items[question]
        head = lines.head(number, task, question, item, seed)
        body = chat(self.request, task, item, seed)
        order = await create_order(body, task.model, None, self.context, self.context.jobs)

        async def attempt() -> Line:
            seen = RequestInfo(self.context.jobs, "admin", order.strategy.type)
            run = Execution(self.context, order, f"{self.job.id}-{number}-{question}-{seed}", seen)
            try:
                await run.finish()
            except (DeadlineExceeded, BudgetSpent, EngineRefused, ScorerError) as error:
                if isinstance(error, EngineRefused) and error.status == 404:  # the model is gone
                    raise
                return lines.refusal_line(head, run, str(error))
            assert run.outcome is not None, "a run that ends has an outcome"
            grades = await self.judge(item, run.outcome.round.candidates)
            return lines.answer_line(head, run, grades, self.request.pass_threshold)

        return await patiently(attempt)


class Benchmarks(Executor):
    """Those of one service."""

    kind = "benchmark"

    async def do(self, job: Job) -> Result:
        doing = await in_thread(BenchmarkRun.begin, self.context, job, self.owner)
        begun = "resumed" if doing.done else "started"
        await doing.note(f"{begun}: {len(doing.done)} of {len(doing.tasks) * doing.per_task} questions done")
        await doing.tell()
        await doing.run()
        return Result(await figures(self.context, job))

    async def early(self, job: Job) -> Result:
        return Result(await figures(self.context, job))

    def sweep(self) -> None:
        sweep_deleted(self.store, root(self.context))


async def figures(context: Context, job: Job) -> Mapping[str, Any]:
    """All that can be said of what was done so far."""
    samples = lines.samples(home(context, job))
    return await asyncio.to_thread(lambda: results.figures(job.spec, iter(samples)))


def home(context: Context, job: Job) -> Path:
    """The folder of a job's questions and samples."""
    return root(context) / str(job.spec["folder"])


def root(context: Context) -> Path:
    """The folder of all of them."""
    return context.settings.data_dir / "benchmarks"


def delete(context: Context, job: Job) -> None:
    """Forget a job with its folder, whose name says so before the record is gone: a kill leaves nothing unknown.

    Who is killed before that can delete the job again; later, the next start removes the folder.
    """
    folder = home(context, job)
    doomed = folder.with_name(f"{folder.name}{DELETED}")
    context.store.delete_job(job.id, partial(rename, folder, doomed) if folder.exists() else None)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep_deleted(store: Store, root: Path) -> None:
    """Remove the folders of jobs that were deleted by one that was killed meanwhile."""
    doomed = list(root.glob(f"*{DELETED}"))
    kept = store.spec_values("benchmark", "folder") if doomed else set()
    for folder in doomed:
        if folder.name.removesuffix(DELETED) not in kept:
            shutil.rmtree(folder, ignore_errors=True)
