"""What all tests share: the application served for real on a loopback port, over a scripted engine or an upstream."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from itertools import count, islice
from pathlib import Path

import httpx
import hypothesis
import pytest
import uvicorn

from service.answers.pool import AnswerPool
from service.app import create_app
from service.context import EngineFactory
from service.engines.process import port_free
from service.sandbox import Sandbox, open_sandbox
from service.settings import Settings

hypothesis.settings.register_profile("outthink", deadline=None)  # how busy the machine is says nothing of the code
hypothesis.settings.load_profile("outthink")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A developer's own settings must not decide whether a test passes, nor a test write into their data."""
    for name in [name for name in os.environ if name.startswith("OUTTHINK_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUTTHINK_DATA_DIR", str(tmp_path / "data"))


PORTS = count(random.randrange(20_000, 30_000))
"""Below those that the kernel hands to clients, and to servers that do not care: one of them would be taken, or linger
from an earlier connection, before it is used."""


class Server(uvicorn.Server):
    """Leaves signals to pytest."""

    def install_signal_handlers(self) -> None:
        return None


def free_port(many: int = 1) -> int:
    """The first of so many free ports in a row, each of which is given once."""
    while True:
        ports = list(islice(PORTS, many))
        if all(map(port_free, ports)):
            return ports[0]


@cache
def shared_workers() -> AnswerPool:
    """One pool for all tests, since a worker takes a second to import sympy."""
    workers = AnswerPool(2, 30.0)  # a busy machine takes some of them only to start a worker
    atexit.register(workers.close)
    return workers


@cache
def shared_sandbox() -> Sandbox:
    """One sandbox for all tests, with a time limit that endless programs may reach often."""
    sandbox = open_sandbox(Settings(sandbox_seconds=1))
    atexit.register(sandbox.pool.close)
    return sandbox


@asynccontextmanager
async def serving(app: object) -> AsyncIterator[str]:
    """Serve an ASGI application on a loopback port and yield its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))  # type: ignore[arg-type]
    task = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started:
            if task.done():
                task.result()
                raise RuntimeError("the server did not start")
            await asyncio.sleep(0.005)  # uvicorn offers no event for this
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def outthink(
    engine: EngineFactory | None = None, *, settings: Settings | None = None, key: str = ""
) -> AsyncIterator[httpx.AsyncClient]:
    """The service over an engine, and a client of it."""
    app = create_app(settings or Settings(), engine=engine, workers=shared_workers(), manage=False)
    async with serving(app) as url:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, trust_env=False) as client:
            yield client


def chat(content: str = "What is 6 * 7?", **fields: object) -> dict[str, object]:
    """A chat request."""
    return {"model": "smollm2", "messages": [{"role": "user", "content": content}], **fields}
