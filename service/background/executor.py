"""The jobs that the service does itself, one of a kind after the other: the lease, the patience, how each one ends.

A request of such a job is a chat request like everyone's: placed by the same code and admitted in the same queue. What
is done is written down question by question, so that a job which was interrupted, by a crash or by a cancel, goes on
where it stopped. The lease of the store sees to it that a job has one doer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

from service.chat.execution import as_api_error
from service.context import Context
from service.errors import ApiError
from service.jobs import Job, Staged
from service.jobs.records import Ended, Kind
from service.threads import in_thread
from service.web.bodies import cancel
from strategies.errors import EngineNonsense, EngineUnavailable, StrategyError

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_SECONDS = 15.0
BEAT_SECONDS = 1.0
"""Between two looks at whether a job is still wanted."""
POLL_SECONDS = 1.0
RESULT_SECONDS = 600.0
"""For the result of a large job that ended early."""
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
"""How long a request waits for an engine that is down, or for a place, before its job fails."""
SWEEP_SECONDS = 3600.0
"""Between two looks for what killed processes left on the disk; what was touched since the last one may be in use."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a job came to: what is stored with it, and the files that appear when it ends."""

    facts: Mapping[str, Any]
    files: Sequence[Staged] = ()


class Executor(ABC):
    """Takes the oldest job of its kind there is, and does it."""

    kind: ClassVar[Kind]

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = context.store
        self.owner = f"service-{uuid4().hex}"

    @abstractmethod
    async def do(self, job: Job) -> Result:
        """Do what is left of a job, and return its result."""

    async def early(self, job: Job) -> Result:
        """The result of a job that failed or was cancelled."""
        return Result({})

    def forget(self, job: Job) -> None:
        """Remove what was kept to go on with a job, once its end is stored for good. In a thread."""
        return

    def sweep(self) -> None:
        """Remove what processes that were killed have left on the disk. In a thread."""
        return

    async def work(self) -> None:
        """For ever, once the engine is up; what goes wrong with one job, or the database, is not the end."""
        swept = float("-inf")
        while True:
            try:
                if time.monotonic() - swept > SWEEP_SECONDS:
                    swept = time.monotonic()
                    await in_thread(self.sweep)
                while self.context.backends.base.up and (job := await self.take_job()) is not None:
                    await self.attend(job)
            except Exception:
                log.exception("%s", self.kind)
            await asyncio.sleep(POLL_SECONDS)

    async def take_job(self) -> Job | None:
        """Take a job; one that was taken while the service ended is given back."""
        found: list[Job | None] = []
        try:
            await in_thread(lambda: found.append(self.store.take_job(self.owner, LEASE_SECONDS, (self.kind,))))
        except asyncio.CancelledError:
            for job in filter(None, found):
                await in_thread(self.store.release, job.id, self.owner)
            raise
        return found[0]

    async def attend(self, job: Job) -> None:
        """Do a job as long as it is wanted and ours; give it back when the service ends."""
        work = asyncio.create_task(self.finish_job(job))
        try:
            while not (await asyncio.wait({work}, timeout=BEAT_SECONDS))[0]:
                wanted = await in_thread(self.store.renew, job.id, self.owner, LEASE_SECONDS)
                if wanted != "run":  # or None, when the lease was lost
                    await cancel(work)
                    if wanted == "cancel":
                        await self.end(job, "cancelled")
                    return
            work.result()
        except asyncio.CancelledError:
            await cancel(work)
            await in_thread(self.store.release, job.id, self.owner)  # the next service takes it at once
            raise
        finally:
            await cancel(work)  # also when the store does not answer

    async def finish_job(self, job: Job) -> None:
        """Do a job to its end, whichever it is."""
        try:
            result = await self.do(job)
        except (StrategyError, ApiError) as error:
            await self.end(job, "failed", error=as_api_error(error))
        except Exception:
            log.exception("%s failed", job.id)
            told = ApiError(500, "the service failed; its log says why", None, "internal_error")
            await self.end(job, "failed", error=told)
        else:
            await self.end(job, "succeeded", result)

    async def end(self, job: Job, status: Ended, result: Result | None = None, error: ApiError | None = None) -> None:
        """Say how a job ended; the result of one that ended early is of what was done."""
        if result is None:
            await in_thread(self.store.renew, job.id, self.owner, RESULT_SECONDS)
            result = await self.early(job)
        await in_thread(self.close, job, status, result, error)

    def close(self, job: Job, status: Ended, result: Result, error: ApiError | None) -> None:
        """Store how a job ended, and forget what was kept to go on; nothing, where it is no longer ours to end."""
        message = status if error is None else f"{status}: {error.message}"
        said = None if error is None else error.body["error"]
        end = partial(self.store.finish, job.id, self.owner, status, result=result.facts, error=said)
        try:
            if end(files=result.files, message=message):
                self.forget(job)
        finally:
            for staged in result.files:  # those that did not become files
                staged.path.unlink(missing_ok=True)


async def drain(things: Iterator[T], limit: int, do: Callable[[T], Awaitable[None]]) -> None:
    """Do all things, so many at once; the first error ends the others and is raised."""

    async def take() -> None:
        for thing in things:
            await do(thing)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(take())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again while the engine fails or the server is full, for some time."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await attempt()
        except (EngineUnavailable, EngineNonsense, ApiError) as error:
            if (isinstance(error, ApiError) and error.status not in (429, 503)) or time.monotonic() > until:
                raise
        await asyncio.sleep(PAUSE_SECONDS)
