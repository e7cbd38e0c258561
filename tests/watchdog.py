"""How long the event loop is kept from others."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

EVERY_SECONDS = 0.005


@dataclass(slots=True)
class Loop:
    """The longest time, in seconds of this thread's processor, in which a task that was due did not get its turn.

    Not of the clock: a machine that is busy with something else is no stall of ours.
    """

    longest: float = 0.0
    spent: float = 0.0


@asynccontextmanager
async def watched() -> AsyncIterator[Loop]:
    """Watch the running loop. What tests before it left is kept from garbage collection, as `serve` keeps imports."""
    gc.collect()
    gc.freeze()
    loop = Loop()
    begun = time.thread_time()
    watching = asyncio.create_task(watch(loop))
    await asyncio.sleep(0)
    try:
        yield loop
        await asyncio.sleep(2 * EVERY_SECONDS)
    finally:
        watching.cancel()
        loop.spent = time.thread_time() - begun
        gc.unfreeze()


async def watch(loop: Loop) -> None:
    while True:
        before = time.thread_time()
        await asyncio.sleep(EVERY_SECONDS)
        loop.longest = max(loop.longest, time.thread_time() - before)
