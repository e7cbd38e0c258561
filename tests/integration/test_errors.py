"""Errors as the official SDK raises them: its own classes, with OpenAI's fields filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import free_port, serving
from tests.integration.asking import ENDLESS, MODEL, asked, extras, strategy, text
from tests.integration.server import BODY_BYTES, BRANCHES, QUEUE, Server, wait_for


def ask(client: openai.OpenAI, extra: dict[str, Any] | None = None, **fields: Any) -> Any:
    body: dict[str, Any] = {"model": MODEL, "messages": asked(), "max_tokens": 8, "extra_body": extra}
    return client.chat.completions.create(**body | fields)


@pytest.mark.parametrize("key", ["sk-wrong", "x"])
def test_wrong_key_is_an_authentication_error(base_url: str, key: str) -> None:
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        for call in (lambda: ask(client), client.models.list):
            with pytest.raises(openai.AuthenticationError) as error:
                call()
            assert error.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("extra", "fields", "param"),
    [
        ({"strategy": "mind_reading"}, {}, "strategy"),
        ({"strategy": {"type": "mind_reading"}}, {}, "strategy.type"),
        (strategy(samples=0), {}, "strategy.samples"),
        (strategy(samples="4"), {}, "strategy.samples"),
        (strategy(colour="red"), {}, "strategy.colour"),
        (strategy("best_of_n", scorer="astrology"), {}, "strategy.scorer"),
        (strategy() | {"budget": {"tokens": 0}}, {}, "budget.tokens"),
        (strategy() | {"answer": {"pattern": "("}}, {}, "answer.pattern"),
        (strategy() | {"include": ["everything"]}, {}, "include[0]"),
        (strategy(), {"temperature": 0}, "temperature"),
        (strategy(), {"temperature": 3}, "temperature"),
        (strategy(), {"n": 5}, "n"),
        (strategy(), {"max_tokens": 0}, "max_tokens"),
        (strategy(), {"messages": []}, "messages"),
        (strategy(), {"modalities": ["audio"]}, "modalities"),
        (strategy() | {"priority": 1}, {}, "priority"),
        ({"budget": {"tokens": 5}}, {}, "budget"),
        ({"vllm_xargs": {}}, {}, "vllm_xargs"),
        (None, {"temperature": -1}, "temperature"),
        (None, {"messages": []}, "messages"),
    ],
)
def test_bad_field_is_a_bad_request_that_names_it(
    client: openai.OpenAI, extra: dict[str, Any] | None, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, extra, **fields)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"
    assert error.value.code is None or isinstance(error.value.code, str)


def test_field_that_steers_the_engine_is_for_admins(base_url: str, admin_key: str) -> None:
    with openai.OpenAI(base_url=base_url, api_key=admin_key, max_retries=0) as admin:
        assert text(ask(admin, strategy(samples=2) | {"priority": 0}))


def test_fields_without_effect_are_accepted(client: openai.OpenAI) -> None:
    fields = {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto", "safety_identifier": "x"}
    assert text(ask(client, strategy(samples=2), **fields))


def test_temperature_0_is_replaced_under_a_preset(client: openai.OpenAI) -> None:
    assert extras(ask(client, model=f"{MODEL}@small", temperature=0))["strategy"]["temperature"] == 0.9


def test_temperature_0_is_honoured_where_there_is_one_sample(client: openai.OpenAI) -> None:
    replies = [ask(client, strategy("chain_of_thought"), temperature=0) for _ in range(2)]
    assert text(replies[0]) == text(replies[1])
    assert extras(replies[0])["strategy"]["temperature"] == 0


def test_body_that_is_too_large_is_413(client: openai.OpenAI) -> None:
    for extra in (None, strategy()):
        with pytest.raises(openai.APIStatusError) as error:
            ask(client, extra, messages=asked("a" * BODY_BYTES))
        assert error.value.status_code == 413
        assert error.value.code == "request_too_large"


@pytest.mark.parametrize("extra", [None, strategy()], ids=["plain", "self_consistency"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_prompt_longer_than_the_context_is_a_bad_request(
    client: openai.OpenAI, extra: dict[str, Any] | None, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, extra, messages=asked("word " * 9000), stream=stream)
    assert error.value.code == "context_length_exceeded"
    assert error.value.param == "messages"


def test_embeddings_of_a_model_that_makes_none_are_an_openai_error(client: openai.OpenAI) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
        client.embeddings.create(model=MODEL, input="Hello")
    assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize("field", ["strategy", "budget"])
def test_strategies_belong_to_chat_completions(client: openai.OpenAI, field: str) -> None:
    extra = {"strategy": "self_consistency", "budget": {"tokens": 8}}
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.completions.create(model=MODEL, prompt="a", max_tokens=2, extra_body={field: extra[field]}),
        lambda: client.responses.create(model=MODEL, input="a", extra_body={field: extra[field]}),
        lambda: client.embeddings.create(model=MODEL, input="a", extra_body={field: extra[field]}),
    )
    for call in calls:
        with pytest.raises(openai.BadRequestError) as error:
            call()
        assert error.value.code == "unsupported_strategy"
        assert error.value.param == field


def test_unknown_path_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.post("/nowhere", cast_to=object)
    assert error.value.type == "invalid_request_error"


def test_deadline_with_nothing_to_show_is_not_tried_again(server: Server, key: str) -> None:
    before = server.metric("outthink_requests_total", status="504")
    with (
        openai.OpenAI(base_url=server.api, api_key=key, max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as error,
    ):
        ask(client, strategy() | {"budget": {"seconds": 0.001}})
    assert error.value.status_code == 504
    assert error.value.response.headers["x-should-retry"] == "false"
    assert server.metric("outthink_requests_total", status="504") == before + 1


async def test_engine_that_is_down_is_503_with_a_time_to_retry() -> None:
    app = create_app(
        Settings(engine_url=f"http://127.0.0.1:{free_port()}/v1", model_name=MODEL, retries=0), manage=False
    )
    async with serving(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        assert [model.id async for model in client.models.list()][:1] in ([], [MODEL])
        for extra in (None, strategy(samples=2)):
            with pytest.raises(openai.InternalServerError) as error:
                await client.chat.completions.create(model=MODEL, messages=asked(), extra_body=extra)
            assert error.value.status_code == 503
            assert 1 <= int(error.value.response.headers["retry-after"]) <= 120
            assert "x-should-retry" not in error.value.response.headers


async def test_full_server_is_429_while_plain_requests_go_on(server: Server, aclient: openai.AsyncOpenAI) -> None:
    """Strategies queue for branches; requests without one are the engine's to schedule, and are not starved."""

    async def search() -> None:
        await aclient.chat.completions.create(
            model=MODEL, messages=asked(), max_tokens=4000, extra_body=strategy(samples=BRANCHES) | ENDLESS
        )

    searches = [asyncio.create_task(search()) for _ in range(1 + QUEUE)]
    try:
        await asyncio.to_thread(wait_for, lambda: server.metric("outthink_queued_requests") == QUEUE)
        await asyncio.to_thread(wait_for, lambda: server.counters().running >= BRANCHES)
        with pytest.raises(openai.RateLimitError) as error:
            await aclient.chat.completions.create(model=MODEL, messages=asked(), extra_body=strategy(samples=2))
        assert 1 <= int(error.value.response.headers["retry-after"]) <= 120
        async with asyncio.timeout(60):
            reply = await aclient.chat.completions.create(model=MODEL, messages=asked(), max_tokens=2)
        assert text(reply)
    finally:
        for task in searches:
            task.cancel()
        await asyncio.gather(*searches, return_exceptions=True)
    await asyncio.to_thread(wait_for, lambda: server.metric("outthink_queued_requests") == 0)
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)


def test_errors_of_the_engine_keep_their_words(server: Server, client: openai.OpenAI) -> None:
    """Pass-through: the status and the message are vLLM's; only the type and the code are made OpenAI's."""
    fields: dict[str, Any] = {"model": MODEL, "messages": asked(), "max_tokens": 8, "top_p": 7}
    url, headers = f"{server.engine}/v1/chat/completions", server.engine_headers
    own = httpx.post(url, json=fields, headers=headers, trust_env=False)
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, top_p=7)
    assert error.value.status_code == own.status_code
    assert error.value.message.removeprefix("Error code: 400 - ") in own.json()["error"]["message"]
    assert error.value.type == "invalid_request_error"
