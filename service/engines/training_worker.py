"""The training worker that `outthink serve` keeps running beside the service: a process of its own, under the watcher.

Whatever ends it, its job is taken up again from the last save, by it when it is back or by any other worker.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence

from service.engines import watcher
from service.engines.process import Launch, Log, Watched
from service.settings import Settings

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "service", "worker")
NEEDED = ("trl", "peft", "datasets", "torch")
GRACE_SECONDS = 10.0  # for the end of a step; what takes longer is done again
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


def missing_packages() -> list[str]:
    """What a worker needs and is not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


async def keep_worker(settings: Settings, command: Sequence[str] = COMMAND) -> None:
    """Run a worker until cancelled; start it again when it ends, after pauses that double."""
    output = Log(settings.data_dir.absolute() / "logs" / "worker.log")
    pidfile = settings.data_dir.absolute() / "worker.pid"
    pidfile.parent.mkdir(parents=True, exist_ok=True)
    pause = FIRST_PAUSE
    while True:
        try:
            await asyncio.to_thread(watcher.clean, pidfile, GRACE_SECONDS + 5)
        except BlockingIOError:
            log.warning("another Outthink trains in %s already; this one starts no worker", settings.data_dir)
            return
        with output.rotate() as file:
            process = Watched(Launch(tuple(command), os.environ), file, pidfile, GRACE_SECONDS)
        try:
            await process.exits_within(None)
        finally:
            status = await process.end()
        log.warning("the training worker ended (exit %d); again in %.0f s; its log: %s", status, pause, output.path)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
