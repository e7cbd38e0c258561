"""The engine over HTTP: what a complete reply is, what is tried again, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.engines.backend import Backend
from service.engines.vllm.bodies import extend_body, sample_body
from service.engines.vllm.client import VllmClient
from service.engines.vllm.engine import VllmEngine
from service.settings import Settings
from strategies.errors import EngineError, EngineNonsense, EngineRefused, EngineUnavailable
from strategies.types import Batch, Call, Chat
from tests.conftest import serving
from tests.upstream import DONE, ERROR, Script, Upstream, event, piece

CHAT = Chat(({"role": "user", "content": "hi"},), {"top_p": 0.5})
WHOLE = [piece("", 0), piece("a", 1), piece("b", 2, finish="stop"), DONE]


@asynccontextmanager
async def engine(*scripts: Script, **settings: Any) -> AsyncIterator[tuple[VllmEngine, Upstream]]:
    upstream = Upstream(list(scripts))
    async with serving(upstream.app()) as url:
        client = VllmClient(Settings(engine_url=url, retries=1, **settings))
        try:
            yield VllmEngine(Backend(client), "smollm2", "run-1"), upstream
        finally:
            await client.close()


async def collect(engine: VllmEngine, call: Call) -> list[Batch]:
    return [batch async for batch in engine.sample(CHAT, call)]


def text(batches: Sequence[Batch], index: int = 0) -> str:
    return "".join(delta.text for batch in batches for delta in batch.deltas if delta.index == index)


async def test_a_whole_reply_is_read() -> None:
    async with engine(Script(WHOLE)) as (vllm, upstream):
        batches = await collect(vllm, Call(n=1, seed=5))
    assert text(batches) == "ab"
    assert [batch.prompt for batch in batches if batch.prompt] == [7]
    [body] = upstream.bodies
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (body["n"], body["seed"], body["top_p"], body["stream_interval"]) == (1, 5, 0.5, 16)
    assert upstream.headers[0]["x-session-id"] == "run-1"
    assert upstream.headers[0]["x-request-id"].startswith("run-1-")


async def test_events_split_anywhere_are_read_whole() -> None:
    raw = b"".join(WHOLE)
    async with engine(Script([raw[i : i + 7] for i in range(0, len(raw), 7)])) as (vllm, _):
        assert text(await collect(vllm, Call())) == "ab"


async def test_done_is_not_needed_and_does_not_prove_anything() -> None:
    async with engine(Script(WHOLE[:-1])) as (vllm, _):
        assert text(await collect(vllm, Call())) == "ab"
    async with engine(Script([piece("a", 1), DONE])) as (vllm, _):
        with pytest.raises(EngineUnavailable, match="1 of 1 branches unfinished") as caught:
            await collect(vllm, Call())
    assert caught.value.generated


@pytest.mark.parametrize(
    "fault",
    [
        Script(status=503, body=b"No available workers", content_type="text/plain"),
        Script(status=500, body=b'{"error":{"message":"boom"}}'),
        Script(status=429, body=b"{}"),
        Script([piece("", 0)], cut=True),
        Script([piece("", 0), DONE]),
        Script([ERROR, DONE]),
        Script([event(choices=[{"index": 9, "delta": {}}])]),
        Script([b"data: {oops\n\n"]),
    ],
)
async def test_what_generated_nothing_is_tried_again_with_the_same_seed(fault: Script) -> None:
    async with engine(fault, Script(WHOLE)) as (vllm, upstream):
        assert text(await collect(vllm, Call(seed=3))).endswith("ab")
    assert [body["seed"] for body in upstream.bodies] == [3, 3]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Script([piece("a", 1)], cut=True), EngineUnavailable),
        (Script([piece("a", 1), ERROR, DONE]), EngineUnavailable),
        (Script([piece("a", 1), b"data: {oops\n\n"]), EngineNonsense),
        (Script([piece("a", 1), event(choices=[{"index": 1, "delta": {}}])]), EngineNonsense),
    ],
)
async def test_what_generated_tokens_is_billed_once(fault: Script, error: type[EngineError]) -> None:
    async with engine(fault, Script(WHOLE)) as (vllm, upstream):
        with pytest.raises(error) as caught:
            await collect(vllm, Call())
    assert caught.value.generated
    assert len(upstream.bodies) == 1


async def test_a_bad_request_is_not_tried_again() -> None:
    body = b'{"error":{"message":"no such tool","type":"BadRequestError","param":"tools","code":400}}'
    async with engine(Script(status=400, body=body), Script(WHOLE)) as (vllm, upstream):
        with pytest.raises(EngineRefused, match="no such tool") as caught:
            await collect(vllm, Call())
    assert (caught.value.status, caught.value.param) == (400, "tools")
    assert len(upstream.bodies) == 1


async def test_silence_is_an_engine_error_and_not_our_deadline() -> None:
    silent = Script([piece("a", 1)], hold=asyncio.Event())
    async with engine(silent, between_bytes_seconds=0.1) as (vllm, _):
        with pytest.raises(EngineUnavailable, match="in time"):
            await collect(vllm, Call())


async def test_closing_a_stream_aborts_it() -> None:
    async with engine(Script([piece("a", 1)], hold=asyncio.Event())) as (vllm, upstream):
        stream = vllm.sample(CHAT, Call())
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(60):
            await upstream.aborted.wait()


async def test_prompts_count_once_a_sample_and_branches_by_their_own_totals() -> None:
    pieces = [piece("a", 1, 0), piece("x", 3, 1), piece("b", 2, 0, "stop"), piece("y", 4, 1, "length")]
    async with engine(Script(pieces)) as (vllm, _):
        batches = await collect(vllm, Call(n=2))
    assert sum(batch.prompt or 0 for batch in batches) == 14
    totals = {delta.index: delta.total for batch in batches for delta in batch.deltas}
    assert totals == {0: 2, 1: 4}


async def test_a_missing_adapter_may_be_there_on_the_next_replica() -> None:
    missing = Script(status=404, body=b'{"error":{"message":"The model `ft:x` does not exist."}}')
    async with engine(missing, Script(WHOLE)) as (vllm, _):
        assert text(await collect(vllm, Call())) == "ab"


async def test_the_tokenizer_says_what_the_list_of_models_does_not() -> None:
    async with engine(Script(body=b'{"tokens": [4, 5], "max_model_len": 77}')) as (vllm, upstream):
        assert await vllm.tokenize("hello") == (4, 5)
        assert await vllm.context("smollm2") == 4096
        assert await vllm.context("other") == 77
    assert upstream.bodies[0]["add_special_tokens"] is False


def test_the_strategy_decides_over_the_callers_fields() -> None:
    body = sample_body(Chat(CHAT.messages, {"temperature": 1, "top_logprobs": 3, "x": 1}), Call(n=4, logprobs=2), "m")
    assert (body["n"], body["temperature"], body["top_logprobs"], body["x"]) == (4, 1, 3, 1)
    assert "seed" not in body
    assert "max_tokens" not in body, "missing means the rest of the context"


def test_a_continuation_always_says_how_long() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        extend_body([(1, 2)], Call(), "m")
    body = extend_body([(1, 2), (3,)], Call(max_tokens=1, label_ids=(5, 6)), "m")
    assert body["prompt"] == [(1, 2), (3,)]
    assert (body["logprob_token_ids"], body["logprobs"], body["return_token_ids"]) == ((5, 6), 20, True)
