"""A real server process over the scripted model of arithmetic, for killing it in the middle of a benchmark.

python -m tests.service.benchmarks.scripted_server PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from service import doing
from service.app import create_app
from service.engines.scripted import ScriptedEngine
from service.settings import Settings
from tests.service.benchmarks.sums import sums


async def think() -> None:
    """Take as long as a fast engine."""
    await asyncio.sleep(0.01)


if __name__ == "__main__":
    doing.LEASE_SECONDS = 1.0  # a killed server holds its job for so long
    doing.BEAT_SECONDS = doing.POLL_SECONDS = 0.1
    app = create_app(Settings(answer_workers=1), engine=ScriptedEngine(sums, pause=think), manage=False)
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None)
