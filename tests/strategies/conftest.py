from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest


@pytest.fixture
async def leaping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still while there is anything to do, and leaps to the next time limit when all wait: nobody
    is late because the machine is busy, and nobody waits."""
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    now, select = time.monotonic(), selector.select

    def leap(timeout: float | None) -> Any:
        nonlocal now
        ready = select(timeout and 0)
        now += 0 if ready else timeout or 0
        return ready

    monkeypatch.setattr(selector, "select", leap)
    monkeypatch.setattr(time, "monotonic", lambda: now)
