"""Calls in threads, which cannot be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a thread what writes, or uses the store. Who is cancelled meanwhile waits for its end.

    A thread cannot be stopped: it would write on when its job has ended, is another's, or was deleted.
    """
    thread = asyncio.get_running_loop().run_in_executor(None, partial(do, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        while not thread.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({thread})
        thread.exception()  # moot: nobody waits for what came of it
        raise
