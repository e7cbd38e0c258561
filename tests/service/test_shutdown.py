"""Going down: nothing new begins, what runs finishes or stops with the best so far, a second signal ends it at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from service.app import create_app
from service.chat import execution
from service.context import EngineFactory
from service.engines.scripted import ScriptedEngine
from service.settings import Settings
from service.web.server import Server
from service.web.shutdown import Shutdown
from tests.conftest import chat, serving, shared_workers
from tests.upstream import Script, Upstream, piece

PATH = "/v1/chat/completions"
SEARCH = {"type": "self_consistency", "samples": 2}


@dataclass
class Stoppable:
    """A server that takes signals as `outthink serve` does, its end, and a client of it."""

    server: Server
    ended: asyncio.Task[None]
    client: httpx.AsyncClient

    @property
    def shutdown(self) -> Shutdown:
        shutdown: Shutdown = self.server.app.state.shutdown
        return shutdown

    def signal(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    async def until(self, so: Callable[[], bool]) -> None:
        """Look until it is so: uvicorn has no event for what it does, and sees a signal within a tenth of a second."""
        for _ in range(6000):
            if so():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("not so after 30 s")

    async def ask(self, **fields: Any) -> asyncio.Task[httpx.Response]:
        """Ask, and return when the request is being answered."""
        asking = asyncio.create_task(self.client.post(PATH, json=chat(**fields)))
        await self.until(lambda: self.shutdown.running > 0)
        return asking


@pytest.fixture(autouse=True)
def deaf() -> Iterator[None]:
    """uvicorn raises the signal again when it has ended, which must not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@asynccontextmanager
async def stoppable(
    engine: EngineFactory | None = None, last_seconds: int = 120, **settings: Any
) -> AsyncIterator[Stoppable]:
    """`last_seconds` are what is cut short has to write its reply."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    known = Settings(**settings)
    app = create_app(known, engine=engine, workers=shared_workers(), manage=False)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=last_seconds)
    server = Server(config, app, known.drain_seconds)
    ended = asyncio.create_task(server.serve([listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        stop = Stoppable(server, ended, client)
        await stop.until(lambda: server.started)
        yield stop
    async with asyncio.timeout(120):
        await ended


class Gate:
    """Lets the engine say the first words, and holds it there."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.held = asyncio.Event()
        self.said = 0

    async def pause(self) -> None:
        self.said += 1
        if self.said > 1:
            self.held.set()
            await self.open.wait()
            await asyncio.sleep(0)  # as a real engine does: a deadline is seen where one waits

    def engine(self) -> ScriptedEngine:
        return ScriptedEngine(lambda prompt, branch: "\\boxed{42} " + "word " * 100, pause=self.pause)


async def test_what_runs_finishes_and_nothing_new_begins() -> None:
    gate = Gate()
    async with stoppable(gate.engine()) as stop:
        asking = await stop.ask(strategy=SEARCH)
        await gate.held.wait()
        stop.signal()
        await stop.until(lambda: stop.shutdown.begun)
        for reply in (await stop.client.post(PATH, json=chat(strategy=SEARCH)), await stop.client.get("/ready")):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
            assert 1 <= int(reply.headers["retry-after"]) <= 120
        assert (await stop.client.get("/health")).status_code == 200
        assert not stop.ended.done()
        gate.open.set()
        reply = await asking
        assert (reply.status_code, reply.json()["outthink"]["stopped_by"]) == (200, "complete")
        await stop.ended


async def test_without_requests_it_ends_at_once() -> None:
    async with stoppable(Gate().engine(), drain_seconds=600) as stop:
        stop.signal()
        await stop.ended


async def test_when_the_time_is_up_a_search_ends_with_the_best_so_far() -> None:
    gate = Gate()
    async with stoppable(gate.engine(), drain_seconds=0) as stop:
        asking = await stop.ask(strategy=SEARCH, stream=True)
        await gate.held.wait()
        stop.signal()
        await stop.until(lambda: stop.shutdown.expired)
        gate.open.set()
        text = (await asking).text
    last = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")][-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["outthink"]["stopped_by"] == "seconds"
    assert text.rstrip().endswith("data: [DONE]")


async def test_when_the_time_is_up_who_waits_for_a_place_is_told_to_come_again() -> None:
    gate = Gate()
    async with stoppable(gate.engine(), drain_seconds=0, max_branches=2) as stop:
        first = await stop.ask(strategy=SEARCH)
        await gate.held.wait()
        second = asyncio.create_task(stop.client.post(PATH, json=chat(strategy=SEARCH)))
        await stop.until(lambda: stop.server.app.state.context.admission.waiting == 1)
        stop.signal()
        reply = await second
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
        assert "x-should-retry" not in reply.headers, "nothing was generated"
        gate.open.set()
        assert (await first).status_code == 200


async def test_a_search_whose_engine_says_nothing_is_503_in_the_end() -> None:
    gate = Gate()
    gate.said = 1  # it is held before its first word
    async with stoppable(gate.engine(), last_seconds=1, drain_seconds=0) as stop:
        asking = await stop.ask(strategy=SEARCH)
        await gate.held.wait()
        stop.signal()
        reply = await asking
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")


async def test_a_stream_whose_engine_says_nothing_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "HEARTBEAT_SECONDS", 0.1)
    gate = Gate()
    async with stoppable(gate.engine(), drain_seconds=0) as stop:
        asking = await stop.ask(strategy=SEARCH, stream=True)
        await gate.held.wait()
        stop.signal()
        text = (await asking).text
    assert json.loads(text.rstrip().splitlines()[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"


async def test_when_the_time_is_up_a_plain_stream_ends_in_an_error() -> None:
    upstream = Upstream([Script([piece("Hello", 1)], hold=asyncio.Event())])
    async with serving(upstream.app()) as engine, stoppable(engine_url=engine, model_name="m", drain_seconds=0) as stop:
        asking = await stop.ask(model="m", stream=True)
        await stop.until(lambda: bool(upstream.bodies))
        stop.signal()
        text = (await asking).text
        await asyncio.wait_for(upstream.aborted.wait(), 30)
    assert json.loads(text.rstrip().splitlines()[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert "[DONE]" not in text


class Silent(Upstream):
    """Never answers."""

    async def answer(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        await asyncio.Event().wait()
        raise AssertionError


async def test_when_the_time_is_up_a_plain_request_is_503() -> None:
    upstream = Silent([])
    async with serving(upstream.app()) as engine, stoppable(engine_url=engine, model_name="m", drain_seconds=0) as stop:
        asking = await stop.ask(model="m")
        await stop.until(lambda: bool(upstream.bodies))
        stop.signal()
        reply = await asking
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")


async def test_a_second_signal_is_immediate() -> None:
    gate = Gate()
    async with stoppable(gate.engine(), drain_seconds=600) as stop:
        asking = await stop.ask(strategy=SEARCH)
        await gate.held.wait()
        stop.signal()
        await stop.until(lambda: stop.shutdown.begun)
        stop.signal()
        async with asyncio.timeout(120):
            reply = await asking
            await stop.ended
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
    assert reply.headers["x-should-retry"] == "false", "tokens may have been generated"
