"""Scorers that the settings name: their tables, their servers, and what requests see of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.app import create_app
from service.engines.command import Reward, policy_share, scorer_command, vllm_command
from service.engines.scripted import ScriptedEngine
from service.settings import Settings
from tests.conftest import chat, outthink, serving
from tests.strategies.support import says

PRM = {"kind": "prm", "model": "tiny"}


def rated(*data: Any) -> bytes:
    """What vLLM's /pooling answers."""
    items = [{"index": index, "object": "pooling", "data": rows} for index, rows in enumerate(data)]
    return json.dumps({"object": "list", "data": items, "usage": {"prompt_tokens": 1}}).encode()


@asynccontextmanager
async def with_scorer(body: bytes, status: int = 200, **table: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The service over a scripted engine, with a scorer `mine` on a server whose tokens are letters."""

    async def tokenize(request: Request) -> Response:
        text = (await request.json())["prompt"]
        return JSONResponse({"tokens": [ord(letter) for letter in text], "max_model_len": 999})

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "tiny", "max_model_len": 999}]})

    async def pooling(request: Request) -> Response:
        assert (await request.json())["task"] == "token_classify"
        return Response(body, status)

    routes = [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/pooling", pooling, methods=["POST"]),
        Route("/v1/models", models),
    ]
    async with serving(Starlette(routes=routes)) as url:
        settings = Settings(scorers={"mine": {"url": f"{url}/v1", **PRM, **table}}, retries=0)
        async with outthink(ScriptedEngine(says("a\n\n6", "b\n\n7")), settings=settings) as client:
            yield client


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"judge": PRM}, "scorers.judge: this name is taken"),
        ({"p": {"kind": "prm"}}, "scorers.p: .*model"),
        ({"p": {"kind": "oracle", "model": "x"}}, "scorers.p: .*'prm', 'outcome', 'generative'"),
        ({"p": {**PRM, "format": "rlhflow"}}, "scorers.p: .*format"),
        ({"p": {**PRM, "aggregate": "max"}}, "scorers.p: .*aggregate"),
        ({"p": {**PRM, "url": "gpu:8000"}}, "scorers.p: .*http://"),
        ({"p": PRM, "q": {**PRM, "model": "other"}}, "only one reward model"),
    ],
)
def test_a_wrong_table_stops_the_start(tables: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        create_app(Settings(scorers=dict(tables)), manage=False)


def test_two_names_may_share_what_is_served() -> None:
    create_app(Settings(scorers={"p": PRM, "q": {**PRM, "aggregate": "min"}}), manage=False)


def test_a_managed_reward_model_runs_eager_and_unchunked_on_the_next_port() -> None:
    settings = Settings(engine_port=8400, scorers={"p": PRM})
    command = scorer_command(settings, Reward("tiny", "--dtype float32"), cpu=False, context=4096)
    line = " ".join(command)
    for part in ("--port 8401", "--runner pooling", "--enforce-eager", "--no-enable-chunked-prefill"):
        assert part in line
    assert "--max-num-batched-tokens 4096" in line
    assert "--gpu-memory-utilization 0.3" in line
    assert line.endswith("--dtype float32")
    assert policy_share(settings) == 0.6
    alone = vllm_command(Settings(), "m", cpu=False)
    assert "--gpu-memory-utilization" not in alone


BEST = {"type": "best_of_n", "samples": 2, "scorer": "mine"}


@pytest.mark.parametrize(("aggregate", "winner"), [("last", "a\n\n6"), ("min", "b\n\n7")])
async def test_the_tables_aggregate_chooses(aggregate: str, winner: str) -> None:
    rows = [[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.5, 0.5]]]
    async with with_scorer(rated(*rows), aggregate=aggregate) as client:
        told = (await client.post("/v1/chat/completions", json=chat(strategy=BEST))).json()
    assert told["choices"][0]["message"]["content"] == winner


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (rated([[0.5, 0.5]] * 7, [[0.5, 0.5]] * 2), 200, "the scorer 'mine' returned 7 scores for 2 steps"),
        (rated([[0.5, 0.5]] * 2), 200, "the scorer 'mine' failed: it rated 1 prompts of 2"),
        (rated([["x"]] * 2, [["y"]] * 2), 200, "the scorer 'mine' failed: it answered in an unknown shape"),
        (b"{}", 200, "the scorer 'mine' failed: it answered in an unknown shape"),
        (b"<html>", 200, "the scorer 'mine' failed"),
        (b'{"error": {"message": "no such model"}}', 404, "the scorer 'mine' failed"),
    ],
)
async def test_a_scorer_that_answers_nonsense_is_named(body: bytes, status: int, complaint: str) -> None:
    async with with_scorer(body, status) as client:
        reply = await client.post("/v1/chat/completions", json=chat(strategy=BEST))
    assert reply.status_code == 502
    assert complaint in reply.json()["error"]["message"]
    assert reply.headers["x-should-retry"] == "false"


async def test_answers_in_hand_outlive_a_scorer_that_is_down() -> None:
    async with with_scorer(b"starting", 503) as client:
        told = (await client.post("/v1/chat/completions", json=chat(strategy=BEST))).json()
    assert told["choices"][0]["message"]["content"] == "a\n\n6"
    assert "the scorer 'mine' is not available" in told["outthink"]["failed"]["reasons"][0]


async def test_the_reply_shows_the_aggregate_that_was_used() -> None:
    settings = Settings(scorers={"mine": {**PRM, "url": "http://127.0.0.1:9/v1", "aggregate": "prod"}})
    async with outthink(ScriptedEngine(says("6")), settings=settings) as client:
        for asked, shown in (({}, "prod"), ({"aggregate": "mean"}, "mean")):
            strategy = {"type": "beam_search", "scorer": "mine", **asked}
            plan = await client.post("/v1/chat/completions", json=chat(strategy=strategy, dry_run=True))
            assert plan.json()["strategy"]["aggregate"] == shown
        plan = await client.post("/v1/chat/completions", json=chat(strategy="beam_search", dry_run=True))
        assert plan.json()["strategy"]["aggregate"] == "last"
        listed = (await client.get("/v1/strategies")).json()["scorers"]
        assert listed[-1] == "mine"
        assert (await client.get("/ready")).json()["scorers"].keys() == {"mine"}
