"""uvicorn that goes on answering while it drains: 503 to what is new, and time for what runs."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

log = logging.getLogger(__name__)

LAST_SECONDS = 12
"""For what was cut short to write its reply; then its connection is closed. More than twice a stream's heartbeat."""


class Server(uvicorn.Server):
    """The first signal drains for so many seconds at most, the second ends what runs, the third is not caught.

    uvicorn's own loop ends at the first signal, and its shutdown, which closes the listening sockets, begins when
    `main_loop` returns.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self.app = app
        self.drain_seconds = drain_seconds

    async def main_loop(self) -> None:
        await super().main_loop()
        shutdown = self.app.state.shutdown
        shutdown.begin()
        log.info("going down: %d requests are running; a second signal ends them at once", shutdown.running)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.drain_seconds):
                await shutdown.over.wait()
        self.app.state.context.end_running()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            asyncio.get_running_loop().call_soon_threadsafe(self.abandon)
        else:
            super().handle_exit(sig, frame)

    def abandon(self) -> None:
        """End every request now; the engine is still stopped in order."""
        if self.started:
            self.app.state.context.end_running()
        self.app.state.shutdown.over.set()
        for task in self.server_state.tasks:
            task.cancel()
