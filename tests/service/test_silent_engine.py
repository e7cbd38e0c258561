"""An engine that takes connections and does not answer: nobody waits for it longer than a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.app import create_app
from service.context import Context
from service.engines.vllm import client as vllm
from service.registry import models
from service.settings import Settings
from tests.conftest import serving, shared_workers
from tests.service.benchmarks.asking import PATH, request
from tests.service.fine_tuning import context_of
from tests.upstream import MODEL


@dataclass
class Silent:
    """Answers those of its paths that it is told to, and keeps every other request waiting."""

    answers: dict[str, object]
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        if path not in self.answers:
            await self.over.wait()
        return JSONResponse(self.answers.get(path))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "SAID_SECONDS", 0.2)
    monkeypatch.setattr(models, "REFRESH_SECONDS", 0.0)


@asynccontextmanager
async def over(silent: Silent) -> AsyncIterator[tuple[httpx.AsyncClient, Context]]:
    async with serving(silent.app()) as url:
        app = create_app(Settings(engine_url=f"{url}/v1"), workers=shared_workers(), manage=False)
        try:
            async with (
                serving(app) as base,
                httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as client,
                asyncio.timeout(60),
            ):
                yield client, context_of(app)
        finally:
            silent.over.set()


def refusal(reply: httpx.Response) -> tuple[int, str, str, str]:
    error = reply.json()["error"]
    return reply.status_code, error["type"], error["code"], error["message"]


async def test_what_only_the_engine_could_tell_is_a_503_soon() -> None:
    async with over(Silent({})) as (client, _):
        listed = await client.get("/v1/models")
        replies = [await client.get("/v1/models/smollm2"), await client.post(PATH, json=request())]
    assert (listed.status_code, listed.json()["data"]) == (200, [])
    for reply in replies:
        *kind, message = refusal(reply)
        assert kind == [503, "service_unavailable_error", "engine_unavailable"]
        assert "did not answer in time" in message


async def test_what_the_engine_said_before_it_fell_silent_stands() -> None:
    silent = Silent({"/v1/models": {"object": "list", "data": [MODEL]}})
    async with over(silent) as (client, context):
        await context.models.refresh()
        silent.answers.clear()
        assert "smollm2" in [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert (await client.get("/v1/models/smollm2")).status_code == 200
        assert (await client.post(PATH, json=request())).status_code == 200
        unknown = [
            await client.get("/v1/models/nope"),
            await client.post(PATH, json=request(model="nope")),
            await client.post(PATH, json=request(strategies=[{"type": "best_of_n", "scorer": JUDGE}])),
            await client.put("/v1/aliases/prod", json={"model": "nope"}),
        ]
    for reply in unknown:
        status, _, code, message = refusal(reply)
        assert (status, code) == (503, "engine_unavailable")
        assert message.startswith("'nope' is none of the models that are known, and the engine does not say its own")


JUDGE = {"type": "judge", "model": "nope"}


async def test_a_context_that_only_the_tokenizer_knows_is_not_waited_for() -> None:
    model = {name: value for name, value in MODEL.items() if name != "max_model_len"}
    async with over(Silent({"/v1/models": {"object": "list", "data": [model]}})) as (client, _):
        status, _, code, message = refusal(await client.post(PATH, json=request()))
    assert (status, code) == (503, "engine_unavailable")
    assert "did not answer in time" in message
