"""Doing the jobs: one after the other, each with a bounded number of requests in flight.

A request of a benchmark is a chat request like everyone's: placed by the same code and admitted in the same queue. What
is done is written down question by question, so that a job that was interrupted, by a crash or by a cancel, goes on
where it stopped. The lease of the store sees to it that a job has one doer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from service.benchmarks import lines, results
from service.benchmarks.grading import Judge, judge
from service.benchmarks.lines import Key, Line
from service.benchmarks.questions import Item
from service.benchmarks.recipe import Task, chat, thawed
from service.context import Context
from service.errors import ApiError
from service.http import cancel
from service.jobs import Job
from service.jobs.records import Ended
from service.middleware import Seen
from service.orders import place
from service.runs import Run, as_api_error
from service.wire.benchmarks import BenchmarkRequest
from strategies.errors import (
    BudgetSpent,
    DeadlineExceeded,
    EngineNonsense,
    EngineRefused,
    EngineUnavailable,
    ScorerError,
    StrategyError,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_SECONDS = 15.0
FIGURES_SECONDS = 600.0  # of a large job
BEAT_SECONDS = 1.0
POLL_SECONDS = 2.0
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
"""How long a request waits for an engine that is down, or for a place, before its job fails and can be resumed."""


@dataclass(slots=True)
class Tally:
    """How far one task is, for people who wait."""

    done: int = 0
    correct: int = 0
    tokens: int = 0

    def add(self, line: Line) -> None:
        self.done += 1
        self.correct += results.chosen(line, "correct") or False
        self.tokens += sum(part["completion"] for part in line["usage"].values())

    def shown(self, task: Task, total: int) -> dict[str, Any]:
        rates = {"accuracy": self.correct / self.done, "tokens": self.tokens / self.done} if self.done else {}
        size = {"samples": None if task.budget else task.size, "budget": task.budget}
        return {"model": task.model, "name": task.name, **size, "done": self.done, "total": total, **rates}


class Stopped(Exception):
    """Somebody wants the job to stop, or, where `wanted` is None, the lease was lost."""

    def __init__(self, wanted: str | None) -> None:
        super().__init__(wanted)
        self.wanted = wanted


@dataclass(slots=True)
class Doing:
    """One job being done."""

    context: Context
    job: Job
    owner: str
    request: BenchmarkRequest
    tasks: Sequence[Task]
    items: Sequence[Item]
    folder: Path
    judge: Judge
    done: set[Key]
    tallies: list[Tally]
    started: float = field(default_factory=time.monotonic)
    before: float = 0.0  # work that was done when it began
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def begin(cls, context: Context, job: Job, owner: str) -> Doing:
        """Read what there is of the job. Slow: it reads files."""
        request, tasks = thawed(job.spec)
        folder = home(context, job)
        lines.mend(folder / lines.SAMPLES)
        tallies = [Tally() for _ in tasks]
        done = set()
        for line in lines.read(folder / lines.SAMPLES):
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
            "tasks": [y.shown(task, self.per_task) for y, task in zip(self.tallies, self.tasks, strict=True)],
        }

    async def run(self) -> None:
        """Do all that is left; raise Stopped, or the error that a later try might not meet."""
        left = self.left()
        workers = {asyncio.create_task(self.drain(left)) for _ in range(self.request.concurrency)}
        beat = asyncio.create_task(self.beat())
        try:
            while pending := {worker for worker in workers if not worker.done()}:
                ended, _ = await asyncio.wait({beat, *pending}, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            for task in (beat, *workers):
                await cancel(task)

    async def drain(self, left: Iterator[Key]) -> None:
        for number, question, seed in left:
            line = await self.ask(number, question, seed)
            async with self.writing:
                await asyncio.to_thread(lines.append, self.folder / lines.SAMPLES, [line])
            self.done.add((number, question, seed))
            tally = self.tallies[number]
            tally.add(line)
            if tally.done == self.per_task:
                task = self.tasks[number]
                shown = tally.shown(task, self.per_task)
                await self.note(f"{task.name}: {tally.correct} of {tally.done} correct", shown)

    async def note(self, message: str, data: dict[str, Any] | None = None) -> None:
        await asyncio.to_thread(self.context.store.note, self.job.id, "info", message, data)

    async def beat(self) -> None:
        """Keep the lease, tell how far it is, and raise Stopped when the job is no longer wanted."""
        store = self.context.store
        while True:
            wanted = await asyncio.to_thread(store.renew, self.job.id, self.owner, LEASE_SECONDS)
            if wanted != "run":
                raise Stopped(wanted)
            await self.tell()
            await asyncio.sleep(BEAT_SECONDS)

    async def tell(self) -> None:
        """Write down how far it is."""
        await asyncio.to_thread(partial(self.context.store.progress, self.job.id, self.owner, **self.progress()))

    async def ask(self, number: int, question: int, seed: int) -> Line:
        """One question to one task."""
        task, item = self.tasks[number], self.items[question]
        head = lines.head(number, task, question, item, seed)
        body = chat(self.request, task, item, seed)
        order = await place(body, task.model, None, self.context, self.context.settings)

        async def attempt() -> Line:
            seen = Seen(self.context.jobs, "admin", order.strategy.type)
            run = Run(self.context, order, f"{self.job.id}-{number}-{question}-{seed}", seen)
            try:
                await run.whole()
            except (DeadlineExceeded, BudgetSpent, EngineRefused, ScorerError) as error:
                if isinstance(error, EngineRefused) and error.status == 404:  # the model is gone
                    raise
                return lines.refused(head, run, str(error))
            assert run.outcome is not None, "a run that ends has an outcome"
            grades = await self.judge(item, run.outcome.round.candidates)
            return lines.answered(head, run, grades, self.request.pass_threshold)

        return await patiently(attempt)


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again while the engine fails or the server is full, for some time."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await attempt()
        except (EngineUnavailable, EngineNonsense, ApiError) as error:
            if (isinstance(error, ApiError) and error.status != 429) or time.monotonic() > until:
                raise
        await asyncio.sleep(PAUSE_SECONDS)


class Benchmarks:
    """The doer of one service: takes the oldest job there is, and does it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.owner = f"service-{uuid4().hex}"
        self.queued = asyncio.Event()

    async def work(self) -> None:
        """For ever, once the engine is up; what goes wrong with one job, or the database, is not the end."""
        while True:
            try:
                job = await self.taken() if self.context.up else None
                await (self.wait() if job is None else self.do(job))
            except Exception:
                log.exception("benchmarks")
                await asyncio.sleep(POLL_SECONDS)

    async def wait(self) -> None:
        """Until a job is queued here; one that another process queued, or lost, is found by looking."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self.queued.wait()
        except TimeoutError:
            return
        self.queued.clear()

    async def taken(self) -> Job | None:
        return await asyncio.to_thread(self.context.store.take_job, self.owner, LEASE_SECONDS, ("benchmark",))

    async def do(self, job: Job) -> None:
        try:
            await self.attempt(job)
        except Stopped as stopped:
            if stopped.wanted == "cancel":
                await self.end(job, "cancelled")
        except (StrategyError, ApiError) as failure:
            await self.end(job, "failed", as_api_error(failure).body["error"])
        except asyncio.CancelledError:
            self.context.store.release(job.id, self.owner)  # the next service takes it at once
            raise
        except Exception:
            log.exception("benchmark %s failed", job.id)
            error = ApiError(500, "the server failed; its log says why", None, "internal_error")
            await self.end(job, "failed", error.body["error"])
        else:
            await self.end(job, "succeeded")

    async def attempt(self, job: Job) -> None:
        """Do what is left of a job."""
        doing = await asyncio.to_thread(Doing.begin, self.context, job, self.owner)
        begun = "resumed" if doing.done else "started"
        await doing.note(f"{begun}: {len(doing.done)} of {len(doing.tasks) * doing.per_task} questions done")
        await doing.run()
        await doing.tell()

    async def end(self, job: Job, status: Ended, error: Mapping[str, Any] | None = None) -> None:
        """Say how it ended, with the figures of what was done."""
        store, path = self.context.store, home(self.context, job) / lines.SAMPLES
        await asyncio.to_thread(store.renew, job.id, self.owner, FIGURES_SECONDS)
        figures = await asyncio.to_thread(results.figures, job.spec, lines.read(path))
        message = f"{status}: {error['message']}" if error else status
        await asyncio.to_thread(store.note, job.id, "error" if error else "info", message)
        await asyncio.to_thread(partial(store.finish, job.id, self.owner, status, result=figures, error=error))


def home(context: Context, job: Job) -> Path:
    """The folder of a job's questions and samples."""
    return context.settings.data_dir / "benchmarks" / str(job.spec["folder"])
