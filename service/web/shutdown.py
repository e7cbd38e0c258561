"""Going down without breaking what runs: nothing new begins, what runs may finish, after a while it is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from service.errors import ApiError

T = TypeVar("T")


class Shutdown:
    """The state of one server, shared by the gate, the routes and whoever stops it.

    `begun`: new requests are refused. `over`: nothing runs any more, or nobody wants to wait. `late`: the time is up.
    """

    def __init__(self) -> None:
        self.begun = False
        self.expired = False
        self.over = asyncio.Event()
        self.running = 0
        self.waits: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        self.begun = True
        self.signal_if_idle()

    def signal_if_idle(self) -> None:
        if self.begun and not self.running:
            self.over.set()

    def expire(self) -> None:
        """Cut short what is `bounded`."""
        if not self.expired:
            self.expired = True
            for wait in self.waits:
                wait.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as running; raise ApiError 503 instead when the server is going down."""
        if self.begun:
            raise shutting_down()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self.signal_if_idle()

    async def within_deadline(self, work: Awaitable[T]) -> T:
        """Await `work`; raise ApiError 503 when the time to drain is up before."""
        try:
            async with asyncio.timeout(0 if self.expired else None) as wait:
                self.waits.add(wait)
                try:
                    return await work
                finally:
                    self.waits.discard(wait)
        except TimeoutError:
            if not wait.expired():
                raise
            raise shutting_down(retry=False) from None


def shutting_down(retry: bool | None = None) -> ApiError:
    """`retry` is False once tokens may have been generated, which a new try would bill again."""
    headers = {"Connection": "close"}
    return ApiError(503, "the server is going down; try again in a moment", None, "shutting_down", retry, headers)
