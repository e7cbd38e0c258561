"""Limits a minute of one key: the buckets, the headers, and what a request is counted as."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from service.engines.scripted import ScriptedEngine
from service.errors import ApiError
from service.settings import KeyLimits, Settings
from service.web.rate_limits import Account, duration
from service.wire.plain import CHAT, COMPLETIONS, RESPONSES, parse_plain
from tests.conftest import chat, outthink, serving
from tests.upstream import DONE, Script, Upstream, event

PATH = "/v1/chat/completions"
KEYS: dict[str, Any] = {"api_keys": ("alice", "bob"), "admin_keys": ("root",)}
SEARCH = {"type": "self_consistency", "samples": 4}


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buckets of a server's keys are not filled again, however long a test takes."""
    defaults: Any = Account.__init__.__defaults__
    monkeypatch.setattr(Account.__init__, "__defaults__", (Clock(), *defaults[1:]))


def account(clock: Clock, **limits: int) -> Account:
    return Account("client-1", Settings(requests_per_minute=None).model_copy(update=limits), clock)


def said(prompt: str, branch: int) -> str:
    return "It is \\boxed{42} indeed"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def limits_of(reply: httpx.Response) -> dict[str, str]:
    return {k.removeprefix("x-ratelimit-"): v for k, v in reply.headers.items() if k.startswith("x-ratelimit-")}


def test_requests_come_back_evenly() -> None:
    clock = Clock()
    limited = account(clock, requests_per_minute=2)
    for _ in range(2):
        with limited.spending(5):
            pass
    with pytest.raises(ApiError) as refused, limited.spending(5):
        pass
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert refused.value.headers["Retry-After"] == "30"
    assert limited.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    clock.seconds = 30
    with limited.spending(5):
        pass


def test_tokens_are_estimated_and_then_settled() -> None:
    limited = account(Clock(), tokens_per_minute=600)
    with limited.spending(400) as spending:
        assert limited.headers["x-ratelimit-remaining-tokens"] == "200"
        with (
            pytest.raises(ApiError, match=r"200 are left and this request needs 201.*max_tokens"),
            limited.spending(201),
        ):
            pass
        spending.tokens = 50
    assert limited.headers["x-ratelimit-remaining-tokens"] == "550"
    assert limited.headers["x-ratelimit-reset-tokens"] == "5s"


def test_what_was_overspent_is_paid_back_first() -> None:
    clock = Clock()
    limited = account(clock, tokens_per_minute=600)
    with limited.spending(0) as spending:
        spending.tokens = 1200
    assert limited.headers["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(ApiError) as refused, limited.spending(10):
        pass
    assert refused.value.headers["Retry-After"] == "61"
    clock.seconds = 61
    with limited.spending(10):
        pass


def test_a_request_larger_than_the_limit_waits_for_a_full_bucket_only() -> None:
    clock = Clock()
    limited = account(clock, tokens_per_minute=60)
    with limited.spending(10_000) as spending:
        spending.tokens = 1
    with pytest.raises(ApiError) as refused, limited.spending(10_000):
        pass
    assert refused.value.headers["Retry-After"] == "1"
    clock.seconds = 1
    with limited.spending(10_000):
        pass


def test_a_refused_request_costs_nothing_of_the_other_limit() -> None:
    limited = account(Clock(), requests_per_minute=10, tokens_per_minute=10)
    with limited.spending(10), pytest.raises(ApiError), limited.spending(10):
        pass
    assert limited.headers["x-ratelimit-remaining-requests"] == "9"


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m0s"), (372.25, "6m12.25s")]
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written


TEXT = "a" * 40
"""About ten tokens."""


OUTPUT = {"type": "function_call_output", "output": TEXT}


@pytest.mark.parametrize(
    ("path", "body", "prompts", "branches", "limit"),
    [
        (CHAT, {"messages": [{"content": TEXT}], "max_tokens": 5, "n": 3}, [11], 3, 5),
        (CHAT, {"messages": [{"content": [{"text": TEXT}]}], "max_completion_tokens": 7}, [12], 1, 7),
        (CHAT, {"messages": [{"content": [{"image_url": {"url": TEXT}}]}]}, [1], 1, None),
        (CHAT, {"messages": [{"content": TEXT}], "max_completion_tokens": 7, "max_tokens": 9}, [11], 1, 7),
        (CHAT, {"messages": [{"content": TEXT}], "tools": [{"parameters": {TEXT: 5}}]}, [25], 1, None),
        (CHAT, {"messages": [{"tool_calls": [{"function": {"arguments": TEXT}}]}], "documents": [TEXT]}, [26], 1, None),
        (CHAT, {"messages": "no"}, [0], 1, None),
        (COMPLETIONS, {"prompt": TEXT}, [10], 1, 16),
        (COMPLETIONS, {"prompt": [TEXT, 2 * TEXT], "n": 3, "max_tokens": 2}, [10, 20], 6, 2),
        (COMPLETIONS, {"prompt": [5, 6, 7], "best_of": 4, "n": 2}, [3], 4, 16),
        (COMPLETIONS, {"prompt": [[5, 6, 7], [8]], "max_tokens": None}, [3, 1], 2, None),
        (CHAT, {"messages": [], "tools": [{"file": TEXT}], "chat_template_kwargs": {"tools": TEXT}}, [22], 1, None),
        (COMPLETIONS, {"prompt_embeds": ["AAAA", "AAAA"]}, [], 2, 16),
        (RESPONSES, {"input": TEXT, "max_output_tokens": 3}, [10], 1, 3),
        (RESPONSES, {"instructions": TEXT, "input": [{"content": [{"text": TEXT}]}, OUTPUT]}, [40], 1, None),
        ("/v1/embeddings", {"input": [TEXT, TEXT]}, [10, 10], 1, None),
        ("/v1/embeddings", {"input": [5, 6]}, [2], 1, None),
    ],
)
def test_what_a_plain_request_may_cost(
    path: str, body: dict[str, Any], prompts: list[int], branches: int, limit: int | None
) -> None:
    asked = parse_plain(body)
    assert (asked.prompt_tokens, asked.prompts * asked.samples, asked.bound(path)) == (prompts, branches, limit)
    assert max(prompts, default=0) <= asked.longest_text / 4 < max(prompts, default=0) + 1


@pytest.mark.parametrize(
    ("path", "body", "each"),
    [
        (CHAT, {"logprobs": True, "top_logprobs": 3}, 4),
        (CHAT, {"logprobs": 1, "top_logprobs": 3}, 4),
        (CHAT, {"logprobs": True}, 1),
        (CHAT, {"logprobs": False, "top_logprobs": 3}, 0),
        (CHAT, {"logprobs": 0, "top_logprobs": 3}, 0),
        (COMPLETIONS, {}, 0),
        (COMPLETIONS, {"logprobs": 0}, 1),
        (COMPLETIONS, {"logprobs": 3}, 4),
        (COMPLETIONS, {"logprobs": True}, 2),
        (RESPONSES, {"top_logprobs": 3}, 4),
    ],
)
def test_how_many_log_probabilities_come_with_a_token(path: str, body: dict[str, Any], each: int) -> None:
    assert parse_plain(body).logprobs_a_token(path) == each


@pytest.mark.parametrize("value", ["4", 4.0, True, -1, [4]])
@pytest.mark.parametrize("field", ["n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_a_number_that_bounds_the_cost_is_a_number(field: str, value: object) -> None:
    with pytest.raises(ApiError) as refused:
        parse_plain({field: value})
    assert (refused.value.status, refused.value.param) == (400, field)


@pytest.mark.usefixtures("standing")
async def test_limits_are_told_on_every_reply_and_kept_for_each_key() -> None:
    settings = Settings(requests_per_minute=2, tokens_per_minute=100_000, **KEYS)
    async with outthink(ScriptedEngine(said), settings=settings) as client:
        first = await client.post(PATH, json=chat(strategy=SEARCH, max_tokens=10), headers=bearer("alice"))
        assert limits_of(first)["remaining-requests"] == "1"
        models = await client.get("/v1/models", headers=bearer("alice"))
        assert limits_of(models)["limit-tokens"] == "100000"
        wrong = await client.post(PATH, json=chat(strategy="nope"), headers=bearer("alice"))
        assert (wrong.status_code, limits_of(wrong)["remaining-requests"]) == (400, "1")
        await client.post(PATH, json=chat(strategy=SEARCH), headers=bearer("alice"))
        refused = await client.post(PATH, json=chat(strategy=SEARCH), headers=bearer("alice"))
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert "alice" not in refused.text
        streamed = await client.post(PATH, json=chat(strategy=SEARCH, stream=True), headers=bearer("alice"))
        assert streamed.status_code == 429
        other = await client.post(PATH, json=chat(strategy=SEARCH), headers=bearer("bob"))
        assert (other.status_code, limits_of(other)["remaining-requests"]) == (200, "1")
        admin = await client.post(PATH, json=chat(strategy=SEARCH), headers=bearer("root"))
        assert (admin.status_code, limits_of(admin)) == (200, {})


async def test_one_key_can_have_limits_and_budgets_of_its_own() -> None:
    own = {"client-2": KeyLimits(requests_per_minute=7, max_budget_tokens=50, default_budget_seconds=9)}
    async with outthink(ScriptedEngine(said), settings=Settings(key_limits=own, **KEYS)) as client:
        for key, limits, budget in (("alice", {}, (1_000_000, 240)), ("bob", {"limit-requests": "7"}, (50, 9))):
            reply = await client.post(PATH, json=chat(strategy=SEARCH, dry_run=True), headers=bearer(key))
            assert tuple(reply.json()["budget"].values()) == budget
            assert limits.items() <= limits_of(reply).items()


def test_limits_of_a_key_that_is_not_there_stop_the_start() -> None:
    with pytest.raises(ValueError, match="client-3: there are client-1, client-2"):
        Settings(key_limits={"client-3": KeyLimits()}, **KEYS)


async def remaining(client: httpx.AsyncClient) -> int:
    reply = await client.get("/v1/models", headers=bearer("alice"))
    return int(limits_of(reply)["remaining-tokens"])


def compact(**body: Any) -> bytes:
    """An event as vLLM writes it, without spaces."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


USAGE = {"prompt_tokens": 60, "completion_tokens": 90, "total_tokens": 150}


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(
    ("script", "stream", "cost"),
    [
        (Script(body=json.dumps({"choices": [], "usage": USAGE}).encode()), False, 150),
        (Script(status=400, body=b'{"error": {"message": "no"}}'), False, 0),
        (Script([event(choices=[{}]), compact(choices=[], usage=USAGE), DONE]), True, 150),
        (Script([compact(type="response.completed", response={"usage": USAGE}), DONE]), True, 150),
        (Script([event(choices=[{"delta": {"content": "data: "}}], usage=USAGE), DONE]), True, 150),
        (Script([event(choices=[{}]), event(choices=[{}])], cut=True), True, 102),
        (Script([event(choices=[{}]), event(choices=[{}]), DONE]), True, 102),
    ],
    ids=[
        "whole",
        "refused",
        "stream with usage",
        "responses",
        "a text like an event",
        "cut stream",
        "stream without usage",
    ],
)
async def test_plain_requests_cost_what_vllm_says(script: Script, stream: bool, cost: int) -> None:
    async with serving(Upstream([script]).app()) as engine:
        settings = Settings(engine_url=engine, model_name="smollm2", tokens_per_minute=300, **KEYS)
        async with outthink(settings=settings) as client:
            body = chat("a" * 385, stream=stream, max_tokens=180)  # 100 tokens, about, with the names of the fields
            reply = await client.post(PATH, json=body, headers=bearer("alice"))
            if stream:
                assert limits_of(reply)["remaining-tokens"] == "20", "when it began, 280 were set aside"
            left = await remaining(client)
    lost = 2 if script.cut else 0  # events that a broken connection may take along
    assert 300 - cost <= left <= 300 - cost + lost


TOOLS = [{"type": "function", "function": {"name": "f"}}]
"""With tools a whole reply is not asked for as a stream."""


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(
    ("script", "body", "cost", "retry"),
    [
        (Script(cut=True, stream_type="application/json"), {"tools": TOOLS}, 199, "false"),
        (Script(status=500, body=b"broken"), {"tools": TOOLS}, 199, "false"),
        (Script(status=503, body=b"busy"), {"tools": TOOLS}, 0, None),
        (Script(status=400, body=b'{"error": {"message": "no"}}'), {"tools": TOOLS}, 0, None),
        (Script(body=b'{"choices": []}'), {"tools": TOOLS}, 199, None),
        (Script(body=b'{"choices": []}'), {}, 193, None),
        (Script(cut=True), {}, 0, None),
    ],
    ids=["cut", "failed", "busy", "refused", "without usage", "no stream, without usage", "cut stream"],
)
async def test_what_an_engine_does_not_say_costs_what_was_set_aside(
    script: Script, body: dict[str, Any], cost: int, retry: str | None
) -> None:
    async with serving(Upstream([script]).app()) as engine:
        settings = Settings(engine_url=engine, model_name="smollm2", tokens_per_minute=300, retries=0, **KEYS)
        async with outthink(settings=settings) as client:
            reply = await client.post(PATH, json=chat("a" * 37, max_tokens=180, **body), headers=bearer("alice"))
            assert reply.headers.get("x-should-retry") == retry
            assert 300 - await remaining(client) == cost


@pytest.mark.usefixtures("standing")
async def test_an_engine_that_cannot_be_reached_costs_nothing() -> None:
    settings = Settings(engine_url="http://127.0.0.1:9", model_name="smollm2", tokens_per_minute=300, retries=0, **KEYS)
    async with outthink(settings=settings) as client:
        reply = await client.post(PATH, json=chat(tools=TOOLS, max_tokens=180), headers=bearer("alice"))
        assert (reply.status_code, await remaining(client)) == (503, 300)


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(
    ("body", "aside"), [(chat("a", max_tokens=10**9), 4 + 4096), (chat(" " * 20_000), 5003 + 4096 - 625)]
)
async def test_no_more_is_set_aside_than_the_context_has_room_for(body: dict[str, Any], aside: int) -> None:
    """The engine's context is 4,096 tokens, and of 20,000 blanks a token has 32 at most."""
    async with serving(Upstream([Script(hold=asyncio.Event())]).app()) as engine:
        settings = Settings(engine_url=engine, model_name="smollm2", tokens_per_minute=100_000, retries=0, **KEYS)
        async with outthink(settings=settings) as client:
            while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            async with client.stream("POST", PATH, json={**body, "stream": True}, headers=bearer("alice")) as reply:
                assert int(limits_of(reply)["remaining-tokens"]) == 100_000 - aside


@pytest.mark.usefixtures("standing")
async def test_a_tokenizer_s_work_is_free_also_for_a_client_that_left() -> None:
    upstream = Upstream([Script(hold=asyncio.Event(), stream_type="application/json")])
    async with serving(upstream.app()) as engine:
        settings = Settings(engine_url=engine, model_name="smollm2", tokens_per_minute=300, **KEYS)
        async with outthink(settings=settings) as client:
            asking = asyncio.create_task(
                client.post("/tokenize", json={"model": "smollm2", "prompt": "a" * 400}, headers=bearer("alice"))
            )
            while not upstream.bodies:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait([asking])
            await upstream.aborted.wait()
            assert await remaining(client) == 300


async def test_plain_requests_go_before_searches_unless_an_admin_says_otherwise() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with serving(upstream.app()) as engine:
        settings = Settings(engine_url=engine, model_name="smollm2", **KEYS)
        async with outthink(settings=settings) as client:
            await client.post(PATH, json=chat(), headers=bearer("alice") | {"X-Vllm-Priority": "-9"})
            await client.post(PATH, json=chat(priority=5), headers=bearer("root"))
    assert [headers.get("x-vllm-priority") for headers in upstream.headers] == ["-1", None]
    assert upstream.bodies[1]["priority"] == 5


@pytest.mark.usefixtures("standing")
async def test_tokens_of_a_search_whose_client_left_are_paid() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        if engine.generated >= 320:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()

    engine = ScriptedEngine(lambda prompt, branch: "word " * 200, pause=pause)
    async with outthink(engine, settings=Settings(tokens_per_minute=900, **KEYS)) as client:
        body = chat(strategy=SEARCH, max_tokens=200)
        asking = asyncio.create_task(client.post(PATH, json=body, headers=bearer("alice")))
        await begun.wait()
        assert await remaining(client) < 200
        asking.cancel()
        await asyncio.wait([asking])
        await gone.wait()
        assert 900 - engine.generated - 20 <= await remaining(client) <= 900 - engine.generated
