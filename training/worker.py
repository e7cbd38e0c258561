"""The worker: takes a job under a lease, has a child process do it, and writes down what the child reports.

Several workers may run, on several machines that share the database and the data directory. The child never sees the
database. While it works its worker renews the lease; one that cannot do so in time kills its child, since another may
have taken the job. What is wanted of the job is seen with every renewal:

    cancel             the child is killed
    pause, or          the child is asked to save and to stop within a step; if that takes too long it is killed,
    the worker stops   and the job will go on from its last save
"""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Event
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

from sqlalchemy.exc import DBAPIError

from service.engines import bundled
from service.engines.access import with_engine_key
from service.graders import check as check_grader
from service.graders.specs import models
from service.jobs import Checkpoint, Conflict, Job, Missing, Store
from service.settings import Settings
from training import child
from training.engine import sweep_unpublished
from training.task import Cancelled, Done, End, Facts, Failed, Note, Published, Report, Stopped, Task

log = logging.getLogger(__name__)

Work = Callable[[Task, Connection, int], None]
"""What the child does: the job, reporting to the connection; the number is the worker's pid."""


LAST = 5.0
"""Seconds that a child has to clear up after its last word."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look and how long to wait, in seconds."""

    idle: float = 1.0  # between two looks for a job
    renewal: float = 2.0  # between two renewals of the lease
    lease: float = 30.0
    stop: float = 180.0  # for a child to end its step and save


@dataclass(slots=True)
class Worker:
    """Does one job at a time until `stopping` is set, by a signal's handler say: it is looked at, never waited for."""

    settings: Settings
    store: Store
    pace: Pace = Pace()
    work: Work = child.main
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}")
    stopping: Event = field(default_factory=Event)

    def run(self) -> None:
        log.info("worker %s waits for jobs", self.name)
        self.sweep()
        while not self.stopping.is_set():
            job = self.take_job()
            if job is None:
                time.sleep(self.pace.idle)
                continue
            try:
                self.do(job)
            except DBAPIError as error:  # its lease will end, and it will be taken up again
                log.warning("the job %s was left: %s", job.id, error)

    def take_job(self) -> Job | None:
        try:
            return self.store.take_job(self.name, self.pace.lease)
        except DBAPIError as error:
            log.warning("the database does not answer: %s", error)
            return None

    def sweep(self) -> None:
        """Remove what is left of jobs that ended while nobody could: their workers had been killed."""
        try:
            for folder in (self.store.folder / "jobs").glob("*"):
                with suppress(Missing):  # what this database does not know is not its own to remove
                    job = self.store.job(folder.name, "fine_tuning")
                    if job.ended:
                        self.clear(Task(self.settings, job, training=Path()))
        except DBAPIError as error:
            log.warning("the database does not answer: %s", error)

    def clear(self, task: Task) -> None:
        """Remove what was kept to take a job up again, and what it made that did not become a file or a checkpoint."""
        self.store.unstage(metrics_id(task.job.id))
        clear(task, {checkpoint.name for checkpoint in self.store.checkpoints(task.job.id)})

    def do(self, job: Job) -> None:
        """Do one job to its end, or until it is to be left."""
        log.info("job %s, attempt %d", job.id, job.attempt)
        try:
            task = self.task(job)
        except Missing as error:
            self.finish(job, Failed(str(error), "not_found"))
            return
        with start_child(self.work, task) as (process, connection):
            end = Watch(self, job, process, connection).end()
        log.info("job %s: %s", job.id, type(end).__name__)
        match end:
            case Stopped():
                self.store.release(job.id, self.name)
            case Done() | Failed() | Cancelled():
                if self.finish(job, end):
                    self.clear(task)

    def task(self, job: Job) -> Task:
        """The job and where its files are; raise Missing for those that were deleted."""
        validation = job.spec["validation_file"]
        return Task(
            settings=self.settings,
            job=job,
            training=self.store.path(job.spec["training_file"]).absolute(),
            validation=self.store.path(validation).absolute() if validation else None,
            parent=self.parent(job.model),
            judge_apart=self.judge_apart(job.spec["grader"]),
        )

    def parent(self, model: str) -> Checkpoint | None:
        """The checkpoint to go on from; None for the base. Raise Missing for one that was deleted."""
        if model == bundled.NAME:
            try:
                return bundled.installed(self.settings)
            except OSError as error:
                raise Missing(f"{model} is not installed in {self.settings.data_dir}: {error}") from error
        return self.store.checkpoint(model) if model.startswith("ft:") else None

    def judge_apart(self, grader: dict[str, Any] | None) -> bool:
        """Whether a grader asks a model that has weights of its own."""
        judges = set() if grader is None else models(check_grader(grader))
        return any(found.form == "merged" for found in self.store.checkpoints() if found.name in judges)

    def finish(self, job: Job, end: Done | Failed | Cancelled) -> bool:
        """Write down how the job ended; false when the lease was lost."""
        store, owner = self.store, self.name
        match end:
            case Done(result, metrics):
                return self.succeed(job, result, as_csv(metrics))
            case Failed(message, code, param):
                error = {"code": code, "message": message, "param": param}
                return store.finish(job.id, owner, "failed", error=error, message=message)
            case Cancelled():
                return store.finish(job.id, owner, "cancelled", message="The job was cancelled")

    def succeed(self, job: Job, result: dict[str, Any], metrics: bytes) -> bool:
        """Write down that a job has succeeded; the file of its metrics appears with that."""
        staged = self.store.stage_file("fine-tune-results", f"{job.id}-metrics.csv", metrics, metrics_id(job.id))
        facts, words = result | {"result_files": [staged.file.id]}, "The job has succeeded"
        try:
            return self.store.finish(job.id, self.name, "succeeded", result=facts, files=[staged], message=words)
        finally:
            staged.path.unlink(missing_ok=True)


class Watch:
    """One job's child, from its start to its end."""

    def __init__(self, worker: Worker, job: Job, process: SpawnProcess, connection: Connection) -> None:
        self.worker, self.job, self.process, self.connection = worker, job, process, connection
        self.reports: deque[Report] = deque()
        self.renewed = self.looked = time.monotonic()
        self.asked: float | None = None
        self.last: End | None = None

    def end(self) -> End | None:
        """Wait for the child's last word; None when the lease was lost, and the job is no longer ours."""
        while True:
            self.listen()
            self.write()
            if self.last is not None and not self.reports:
                self.process.join(LAST)
                return self.last
            now = time.monotonic()
            if now - self.looked >= self.worker.pace.renewal:
                self.looked = now
                end = self.look(now)
                if end is not None or now - self.renewed > self.worker.pace.lease:
                    return end

    def listen(self) -> None:
        """Take what the child says; a child that dies without a last word has failed."""
        try:
            if self.last is not None or not self.connection.poll(self.worker.pace.renewal / 4):
                return
            report = self.connection.recv()
        except (EOFError, OSError):  # OSError: in the middle of a word
            self.process.join()
            self.last = self.explain_death(self.process.exitcode)
            return
        if isinstance(report, End):
            self.last = report
        else:
            self.reports.append(report)

    def explain_death(self, code: int | None) -> End:
        """What it means that a child ended without a last word."""
        if self.asked is not None and code == -signal.SIGTERM:
            return Stopped()  # it was asked to stop before it could listen
        why = "perhaps for want of memory" if code == -signal.SIGKILL else "its log says more"
        return Failed(f"the training process ended with {code}, {why}", "training_process_died")

    def write(self) -> None:
        """Write the child's reports down, in their order; later, when the database does not answer."""
        try:
            while self.reports:
                self.write_one(self.reports[0])
                self.reports.popleft()
        except DBAPIError as error:
            log.warning("the database does not answer: %s", error)

    def write_one(self, report: Report) -> None:
        store, job = self.worker.store, self.job.id
        match report:
            case Note(message, data, level):
                store.note(job, level, message, data)
            case Facts(facts):
                store.progress(job, self.worker.name, **facts)
            case Published(checkpoint):
                self.publish(checkpoint)

    def publish(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint known; one that was deleted before the job was taken up again goes once more."""
        store, job = self.worker.store, self.job.id
        try:
            store.publish(checkpoint)
        except Conflict as error:
            shutil.rmtree(store.folder / checkpoint.path, ignore_errors=True)
            store.note(job, "warn", str(error))
        else:
            store.note(job, "info", f"Published {checkpoint.name}")

    def look(self, now: float) -> End | None:
        """Renew the lease and do what is wanted; how the job ends, if that ends it."""
        pace = self.worker.pace
        try:
            wanted = self.worker.store.renew(self.job.id, self.worker.name, pace.lease)
        except DBAPIError as error:
            log.warning("the lease was not renewed: %s", error)
            return None
        if wanted is None:
            self.renewed = -pace.lease
            return None
        self.renewed = now
        if wanted == "cancel":
            return Cancelled()
        if self.asked is not None:
            return Stopped() if now - self.asked > pace.stop else None
        if wanted == "pause" or self.worker.stopping.is_set():
            self.asked = now
            self.process.terminate()
        return None


@contextmanager
def start_child(work: Work, task: Task) -> Iterator[tuple[SpawnProcess, Connection]]:
    """A child at work; it is gone afterwards."""
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(task, theirs, os.getpid()), name=task.job.id)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.kill()
        process.join()


def clear(task: Task, published: Collection[str]) -> None:
    """Remove what was kept to take the job up again; its log stays, and the checkpoints that are known."""
    for path in task.folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path != task.log:
            path.unlink(missing_ok=True)
    sweep_unpublished(task, published)


def metrics_id(job_id: str) -> str:
    """The id of the file of a job's metrics, whoever does the job."""
    return f"file-{uuid5(NAMESPACE_OID, f'{job_id} metrics').hex}"


def as_csv(rows: Sequence[dict[str, float]]) -> bytes:
    """A table with a column for everything that was measured at any step."""
    columns = list(dict.fromkeys(["step", "train_loss", *(name for row in rows for name in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def serve(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C."""
    store = Store.open(settings.data_dir.absolute(), settings.database_url.get_secret_value())
    worker = Worker(with_engine_key(settings), store)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stopping.set())
    try:
        worker.run()
    finally:
        store.close()
