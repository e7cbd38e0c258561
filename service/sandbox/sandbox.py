"""Programs, from the server's side: tests of an answer's code, and `grade` functions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.answers.pool import AnswerPool
from service.sandbox import programs
from service.sandbox.programs import LONGEST, Ended, Limits, StdinCase
from service.settings import Settings

log = logging.getLogger(__name__)

PATIENCE = 3
"""Tests that may reach the time limit before the others of an answer count as failed, unrun."""
TOO_LONG = f"the program is longer than {LONGEST // 1024} KiB"


@dataclass(frozen=True, slots=True)
class TestsResult:
    """What a program's tests said. With `unsupported` there is no opinion, whatever was counted before that."""

    passed: int
    failed: int
    unsupported: str | None = None
    first_failure: str | None = None


class GraderFailed(Exception):
    """A `grade` function gave no number: by its own fault (`runtime`), or by that of what runs it (`server`)."""

    def __init__(self, fault: Literal["runtime", "server"], message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Runs programs of models and clients, in turn between keys and requests; holds nothing between two of them."""

    pool: AnswerPool
    limits: Limits
    key: str = ""
    request: str = ""

    def share(self, key: str, request: str) -> Sandbox:
        """The sandbox as one request of a key uses it."""
        return replace(self, key=key, request=request)

    async def run_tests(self, code: str, tests: Sequence[str | StdinCase]) -> TestsResult:
        """Run each test in an interpreter of its own, after the code; end at the first that Monty cannot judge."""
        passed, slow, first = 0, 0, None
        for number, test in enumerate(tests):
            ended = await self.submit(programs.run_test, code, test)
            if ended.kind not in ("done", "failed", "slow"):
                return TestsResult(passed, number - passed, ended.reason, first)
            passed += ended.kind == "done"
            slow += ended.kind == "slow"
            first = first or ended.reason or None
            if slow == PATIENCE:
                break
        return TestsResult(passed, len(tests) - passed, None, first)

    async def run_grader(self, source: str, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """What `grade(sample, item)` of a source returns, from 0 to 1; raise GraderFailed for anything else."""
        try:  # as JSON, since what is too deep to be pickled would end the pool, and not only this job
            given = json.dumps({"sample": sample, "item": item})
        except (TypeError, ValueError, RecursionError) as error:
            raise GraderFailed("runtime", "the sample and the item must be JSON, and not too deep") from error
        ended = await self.submit(programs.run_grade, source, given)
        if ended.kind in ("starved", "crashed"):
            raise GraderFailed("server", ended.reason)
        if ended.kind != "done" or ended.value is None:
            raise GraderFailed("runtime", ended.reason)
        if not 0 <= ended.value <= 1:
            raise GraderFailed("runtime", f"returned {ended.value:g}, which is not from 0 to 1")
        return ended.value

    async def check_grader(self, source: str) -> str | None:
        """What is wrong with a grader's source; None when it can be loaded and has a function `grade`.

        On a machine too busy to load it nothing is known to be wrong.
        """
        ended = await self.submit(programs.check_source, source)
        return None if ended.kind in ("done", "starved") else ended.reason

    async def submit(self, job: Callable[..., Ended], source: str, *args: Any) -> Ended:
        """Run a job, once more when that it failed says nothing of the program."""
        if len(source) > LONGEST:
            return Ended("unsupported", TOO_LONG)
        ended = await self.attempt(job, source, *args, self.limits)
        if ended.kind not in ("starved", "crashed"):
            return ended
        return await self.attempt(job, source, *args, replace(self.limits, patience=programs.PATIENT))

    async def attempt(self, job: Callable[..., Ended], *args: Any) -> Ended:
        try:
            return await self.pool.share(self.key, self.request).run(job, *args)
        except (TimeoutError, MemoryError):
            log.warning("a program took its worker with it")
            return Ended("crashed", "the interpreter ended before the program did")


def open_sandbox(settings: Settings) -> Sandbox:
    """The sandbox of a server, over processes that the caller closes (`pool`); each starts with its first program."""
    limits = Limits(settings.sandbox_seconds, settings.sandbox_memory_bytes, settings.sandbox_recursion)
    memory = limits.memory + programs.RESERVE_BYTES
    pool = AnswerPool(settings.sandbox_workers, limits.longest, memory, programs.prepare, starved=1)
    return Sandbox(pool, limits)
