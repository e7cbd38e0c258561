"""How many branches may be in flight at once, over all requests with a strategy.

First come, first served, by branches: a 64-branch search waits until 64 are free, and nobody overtakes it for ever.
Requests without a strategy are the engine's own to queue and do not come here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import ApiError


class Admission:
    """A weighted semaphore with a bounded queue."""

    def __init__(self, branches: int, queue: int) -> None:
        self.branches = branches
        self.free = branches
        self.places = queue
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, branches: int) -> AsyncIterator[None]:
        """Hold so many branches, at most all there are; raise ApiError 429 when the queue is full."""
        wanted = min(branches, self.branches)
        await self.enter(wanted)
        try:
            yield
        finally:
            self.free += wanted
            self.admit()

    async def enter(self, wanted: int) -> None:
        if not self.waiting and wanted <= self.free:
            self.free -= wanted
            return
        if len(self.waiting) >= self.places:
            raise ApiError(429, "the server is full; try again in a moment", None, "server_full")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (wanted, turn)
        self.waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.free += wanted  # it was let in and left at the same moment
            elif place in self.waiting:
                self.waiting.remove(place)
            self.admit()
            raise

    def admit(self) -> None:
        """Let in whoever is first, as long as there is room."""
        while self.waiting and self.waiting[0][0] <= self.free:
            wanted, turn = self.waiting.popleft()
            if not turn.cancelled():  # else it has left, and only has not noticed yet
                self.free -= wanted
                turn.set_result(None)
