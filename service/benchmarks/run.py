"""Doing benchmarks: every question to every task of the grid, with a bounded number of requests in flight."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from service.background.executor import Executor, Result, drain, patiently
from service.benchmarks import lines, results
from service.benchmarks.grading import CandidateGrader, judge
from service.benchmarks.lines import Key, Line
from service.benchmarks.progress import Pace, TaskProgress
from service.benchmarks.questions import Item
from service.benchmarks.recipe import Task, chat, from_spec, run_tasks
from service.chat.execution import Execution
from service.chat.order import create_order
from service.context import Context
from service.disk import rename
from service.durations import spell
from service.errors import ApiError
from service.jobs import Job, Store
from service.threads import in_thread
from service.web.middleware import RequestInfo
from service.wire.benchmarks import BenchmarkRequest
from strategies.errors import BudgetSpent, DeadlineExceeded, EngineRefused, ScorerError

FIRST_ANSWERS = 20
"""From so many, or half of a smaller grid, the time of the whole is told."""

DELETED = ".deleted"
"""Ends the name of a folder whose job is being deleted."""


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
    pace: Pace
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def begin(cls, context: Context, job: Job, owner: str) -> BenchmarkRun:
        """Read what there is of the job. Slow: it reads files."""
        request, tasks = from_spec(job.spec)
        folder = home(context, job)
        items = lines.read_questions(folder)
        samples = lines.samples(folder)
        samples.recover()
        per_task = len(items) * len(request.seed_list)
        pace = Pace({number: TaskProgress(task, per_task) for number, task in run_tasks(tasks).items()})
        done = set()
        for line in samples:
            done.add(lines.key(line))
            pace.add(lines.key(line), line)
        pace.before = pace.tokens
        pace.spent = job.progress.get("seconds", 0.0)
        return cls(context, job, owner, request, tasks, items, folder, judge(request, context), done, pace)

    @property
    def total(self) -> int:
        return sum(tally.total for tally in self.pace.tallies.values())

    @property
    def whole(self) -> int:
        """The questions that every task has answered with every seed."""
        given = Counter(question for _, question, _ in self.done)
        return sum(count == len(self.pace.tallies) * len(self.request.seed_list) for count in given.values())

    @property
    def seconds_left(self) -> float | None:
        """Of the time that the request allows."""
        return None if self.request.seconds is None else max(self.request.seconds - self.pace.seconds, 0.0)

    def left(self) -> Iterator[Key]:
        """What is not done yet: a question goes to every task before the next one, so that all have answered the same
        ones whenever it ends. It ends before a question for which there is not time enough."""
        seeds = self.request.seed_list
        begun = {question for _, question, _ in self.done}
        for question in range(len(self.items)):
            if question not in begun and not self.has_time_for(question):
                return
            for seed in seeds:
                for task in self.pace.tallies:
                    if (task, question, seed) not in self.done:
                        yield task, question, seed

    def has_time_for(self, question: int) -> bool:
        """Whether all up to this question would be done in time."""
        left = self.seconds_left
        return left is None or self.pace.fits((question + 1) * len(self.request.seed_list), left)

    def progress(self) -> dict[str, Any]:
        eta = self.pace.seconds_for(len(self.items) * len(self.request.seed_list))
        bounds = [seconds for seconds in (eta, self.seconds_left) if seconds is not None]
        return {
            "done": len(self.done),
            "total": self.total,
            "seconds": round(self.pace.seconds, 1),
            "eta_seconds": None if eta is None else round(min(bounds), 1),
            "tasks": [tally.as_dict() for tally in self.pace.tallies.values()],
        }

    async def run(self) -> None:
        """Do all that is left, or what there is time for; raise the error that a later try might not meet."""
        try:
            async with asyncio.timeout(self.seconds_left) as limit:
                await drain(self.left(), self.request.concurrency, self.take)
        except TimeoutError:
            if not limit.expired():
                raise
        if self.whole < len(self.items):
            await self.note_cut()

    async def note_cut(self) -> None:
        """Say what there was time for; raise ApiError when that is nothing."""
        await self.tell()
        after = f"after {spell(self.pace.seconds)}"
        if not self.whole:
            problem = f"no question was answered by every strategy {after}: allow more, or ask fewer or smaller sizes"
            raise ApiError(400, f"seconds: {problem}", "seconds", "out_of_time")
        await self.note(f"stopped {after}: {self.whole} of {len(self.items)} questions answered by every strategy")

    async def take(self, key: Key) -> None:
        """Ask one question of one task, and write down what came."""
        try:
            line = await self.ask(*key)
            async with self.writing:
                await in_thread(lines.samples(self.folder).append, [line])
                self.done.add(key)
                self.pace.add(key, line)
                await self.tell()
                await self.note_milestones(self.pace.tallies[key[0]])
        finally:
            self.pace.running.pop(key, None)

    async def note_milestones(self, tally: TaskProgress) -> None:
        """Say how long it all takes, early on, and what a task has come to."""
        if len(self.done) == min(FIRST_ANSWERS, self.total // 2):
            await self.note_estimate()
        if tally.done == tally.total:
            task = tally.task
            await self.note(f"{task.name} ({task.extent}): {tally.correct} of {tally.done} correct", tally.as_dict())

    async def note_estimate(self) -> None:
        left = self.pace.seconds_for(len(self.items) * len(self.request.seed_list))
        if left is None:
            return
        whole = self.pace.seconds + left
        said = f"about {spell(whole)} for all {self.total:,} answers, from the first {len(self.done)}"
        if self.request.seconds is not None and whole > self.request.seconds:
            said += f"; stops after {spell(self.request.seconds)}"
        await self.note(said, {"seconds": round(whole, 1)})

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
            self.pace.running[number, question, seed] = run.session
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
        await doing.note(f"{begun}: {len(doing.done)} of {doing.total:,} answers")
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
