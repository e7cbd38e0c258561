from __future__ import annotations

import pytest

from service.background import executor


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for news more often than in earnest."""
    for name in ("BEAT_SECONDS", "POLL_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(executor, name, 0.02)
    monkeypatch.setattr("service.routes.benchmarks.FOLLOW_SECONDS", 0.02)
