"""Processes that can be killed, for what clients' texts become: patterns, formulae, comparisons.

A regular expression can backtrack for ever or take gigabytes to compile, and so can sympy on a tower of powers. Such
jobs run in a small pool whose workers are killed at a time limit, have a limit of memory, and never share the event
loop. The pool is shared fairly: keys take turns, and so do the requests of a key, and no key holds the last free
worker, so that one whose jobs are killed again and again waits for its own replacements only.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import re
import resource
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

T = TypeVar("T")

PR_SET_PDEATHSIG = 1
STARVED = 5
"""Time limits after which a job is killed that the machine was too busy to run for the time of one."""
MEMORY_BYTES = 512 * 2**20
"""What a job may take beyond what a worker needs by itself."""


class Turns:
    """Who may use one of so many workers now: keys in turn, of a key its requests in turn."""

    def __init__(self, workers: int) -> None:
        self.free = workers
        self.most = max(workers - 1, 1)  # of one key
        self.held: Counter[str] = Counter()
        self.waiting: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}

    @asynccontextmanager
    async def hold(self, key: str, request: str) -> AsyncIterator[None]:
        """Hold a worker, once it is this request's turn."""
        turn = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(key, {}).setdefault(request, deque()).append(turn)
        self.admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(key)
            raise
        try:
            yield
        finally:
            self.release(key)

    def release(self, key: str) -> None:
        self.free += 1
        self.held[key] -= 1
        self.admit()

    def admit(self) -> None:
        while self.free and (key := self.next_key()) is not None:
            turn = self.next_turn(key)
            if not turn.cancelled():
                self.free -= 1
                self.held[key] += 1
                turn.set_result(None)

    def next_key(self) -> str | None:
        return next((key for key in self.waiting if self.held[key] < self.most), None)

    def next_turn(self, key: str) -> asyncio.Future[None]:
        """The next of a key's requests; both go behind all others that wait."""
        requests = self.waiting.pop(key)
        request = next(iter(requests))
        turns = requests.pop(request)
        turn = turns.popleft()
        if turns:
            requests[request] = turns
        if requests:
            self.waiting[key] = requests
        return turn


class AnswerPool:
    """The pool. `limit` is the processor time of one job in seconds, `memory` its bytes.

    `prepare` is what a worker does when it starts, given its parent and `memory`. By the clock, a job may take
    `starved` times its limit.
    """

    def __init__(
        self,
        processes: int,
        limit: float,
        memory: int = MEMORY_BYTES,
        prepare: Callable[[int, int], None] | None = None,
        starved: int = STARVED,
    ) -> None:
        self.starved = starved
        self.processes = processes
        self.limit = limit
        self.memory = memory
        self.turns = Turns(processes)
        context = multiprocessing.get_context("spawn")  # threads and event loops do not survive a fork
        arguments = (os.getpid(), memory)
        self.pool = ProcessPool(
            max_workers=processes, context=context, initializer=prepare or prepare_answers, initargs=arguments
        )

    def share(self, key: str, request: str) -> PoolShare:
        """The pool as one request of a key uses it."""
        return PoolShare(self, key, request)

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """Run a job of the server's own; see `PoolShare.run`."""
        return await self.share("", "").run(job, *args)

    async def execute(self, job: Callable[..., T], *args: Any) -> tuple[T, float]:
        """What a job returned, and how long it ran."""
        future = self.pool.schedule(within, args=(self.limit, job, *args), timeout=self.starved * self.limit)
        try:
            result: tuple[T, float] = await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise TimeoutError("the process died") from error
        return result

    async def warm_up(self) -> None:
        """Have the first worker import what it needs, so that no request waits for it."""
        await asyncio.wrap_future(self.pool.schedule(os.getpid))

    def close(self) -> None:
        self.pool.stop()  # type: ignore[no-untyped-call]
        self.pool.join()


class PoolShare:
    """One request's share of the pool. It counts the processor time that its jobs took: that the machine is busy, or a
    worker has to be started first, is not their fault."""

    def __init__(self, pool: AnswerPool, key: str, request: str) -> None:
        self.pool, self.key, self.request = pool, key, request
        self.took = 0.0
        self.ended = asyncio.Event()

    @property
    def limit(self) -> float:
        return self.pool.limit

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """Run a job in its turn; raise TimeoutError when it had to be killed, MemoryError when it wanted too much."""
        async with self.pool.turns.hold(self.key, self.request):
            seconds = 0.0
            try:
                result, seconds = await self.pool.execute(job, *args)
            except (TimeoutError, MemoryError):
                seconds = self.limit
                raise
            finally:
                self.took += seconds
                self.ended.set()
        return result

    async def running(self, limits: int) -> None:
        """Return when the jobs of this request took so many time limits from now on, on each worker."""
        until = self.took + limits * self.limit * self.pool.processes
        while self.took < until:
            self.ended.clear()
            await self.ended.wait()


def die_with(parent: int) -> None:
    """End this process with its parent, and leave Ctrl-C to that."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a busy worker would not see a closed pipe
    if os.getppid() != parent:
        os._exit(1)  # it was too late to ask
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def prepare_answers(parent: int, memory: int) -> None:
    """When a worker of answers starts: import the slow libraries, limit the memory."""
    die_with(parent)
    import math_verify

    math_verify.verify(math_verify.parse("$x+1$"), math_verify.parse("$1+x$"))  # it imports more at its first use
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of each time limit that is left to us
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + memory, resource.RLIM_INFINITY))


def within(limit: float, job: Callable[..., T], *args: Any) -> tuple[T, float]:
    """In a worker: run a job, and end the process when it has used so many seconds of the processor."""
    signal.setitimer(signal.ITIMER_PROF, limit)  # nobody handles SIGPROF, which ends the process even inside C code
    began = time.process_time()
    try:
        return job(*args), time.process_time() - began
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def address_space() -> int:
    """Bytes of this process's address space."""
    found = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
