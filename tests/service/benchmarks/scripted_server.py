"""A real server process over the scripted model of arithmetic, for killing it in the middle of a benchmark.

python -m tests.service.benchmarks.scripted_server PORT [TURNS]

After so many turns the model says no more: a benchmark does not end before the server is killed, however late.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from math import inf

import uvicorn

from service.app import create_app
from service.background import executor
from service.engines.scripted import ScriptedEngine
from service.settings import Settings
from tests.service.benchmarks.sums import sums
from tests.strategies.support import gate


def think(turns: float) -> Callable[[], Awaitable[None]]:
    """Take as long as a fast engine, and after so many turns for ever."""
    more = gate(turns)

    async def pause() -> None:
        await asyncio.sleep(0.01)
        await more()

    return pause


if __name__ == "__main__":
    executor.LEASE_SECONDS = 1.0  # a killed server holds its job for so long
    executor.BEAT_SECONDS = executor.POLL_SECONDS = 0.1
    settings = Settings(answer_workers=1, answer_seconds=60)  # the table must be the same on a busy machine
    pause = think(float(sys.argv[2]) if len(sys.argv) > 2 else inf)
    app = create_app(settings, engine=ScriptedEngine(sums, pause=pause), manage=False)
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None)
