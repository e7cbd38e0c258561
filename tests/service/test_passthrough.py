"""Requests without a strategy, against an upstream that speaks vLLM's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.conftest import chat, outthink, serving
from tests.upstream import DONE, ERROR, Script, Upstream, event, piece

PATH = "/v1/chat/completions"
ALL_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@asynccontextmanager
async def before(upstream: Upstream, key: str = "", **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    """The service in front of an upstream, ready."""
    async with serving(upstream.app()) as url:
        fields = {"engine_url": f"{url}/v1", "engine_api_key": "upstream-key", "retries": 1, **settings}
        async with outthink(settings=Settings(**fields), key=key) as client:  # type: ignore[arg-type]
            while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield client


async def test_the_bytes_go_there_and_come_back_as_they_are() -> None:
    sent = b'{ "model":"smollm2",   "messages":[{"role":"user","content":"hi"}], "unknown": [1.0, 2] }'
    upstream = Upstream([Script(body=b'{"id": "x",  "choices" :[]}')])
    async with before(upstream) as client:
        reply = await client.post(PATH, content=sent)
    assert upstream.raw == [sent]
    assert reply.content == b'{"id": "x",  "choices" :[]}'


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize"])
async def test_every_plain_endpoint_passes(path: str) -> None:
    upstream = Upstream([Script(body=b'{"ok":1}')])
    async with before(upstream) as client:
        reply = await client.post(path, json={"model": "smollm2", "input": "x"})
    assert reply.json() == {"ok": 1}


async def test_a_stream_passes_as_it_comes() -> None:
    hold = asyncio.Event()
    upstream = Upstream([Script([piece("a", 1), piece("b", 2, finish="stop")], hold=hold), Script()])
    async with before(upstream) as client, client.stream("POST", PATH, json=chat(**ALL_USAGE)) as reply:
        parts = reply.aiter_bytes()
        seen = b""
        while b'"b"' not in seen:  # the upstream has not ended yet
            seen += await anext(parts)
        assert seen == piece("a", 1) + piece("b", 2, finish="stop")
        hold.set()
        rest = b"".join([part async for part in parts])
    assert b"error" in rest, "there was no [DONE]"


async def test_a_whole_stream_is_unchanged() -> None:
    pieces = [piece("a", 1), piece("b", 2, finish="stop"), DONE]
    async with before(Upstream([Script(pieces)])) as client:
        reply = await client.post(PATH, json=chat(**ALL_USAGE))
    assert reply.content == b"".join(pieces)


@pytest.mark.parametrize("wanted", [False, True])
async def test_usage_is_always_asked_for_and_kept_from_a_client_that_did_not_ask(wanted: bool) -> None:
    pieces = [piece("a", 1), piece("b", 2, finish="stop"), event(choices=[], usage={"total_tokens": 9}), DONE]
    upstream = Upstream([Script(pieces)])
    async with before(upstream) as client:
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if wanted else {}
        reply = await client.post(PATH, json=chat(stream=True, **options))
    [sent] = upstream.bodies
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    *events, last = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: {")]
    assert reply.text.endswith("data: [DONE]\n\n")
    events, last = (events, last) if wanted else ([*events, last], {})
    assert [said["choices"][0]["delta"]["content"] for said in events] == ["a", "b"]
    assert all("usage" not in said for said in events)
    assert last.get("usage") == ({"total_tokens": 9} if wanted else None)


async def test_texts_that_look_like_events_are_texts() -> None:
    trick = "\ndata: [DONE]\n\ndata: "
    usage = event(choices=[], usage={"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2})
    upstream = Upstream([Script([piece(trick, 1), piece("data: {", 2, finish="stop"), usage, DONE])])
    async with before(upstream) as client:
        reply = await client.post(PATH, json=chat(stream=True))
    said = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: {")]
    assert [one["choices"][0]["delta"]["content"] for one in said] == [trick, "data: {"]
    assert all("usage" not in one for one in said)


async def test_a_whole_reply_is_put_together_from_a_stream() -> None:
    """Log-probabilities, several choices out of order, reasoning; the fields are compared with vLLM's own elsewhere."""
    words = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": []}]}
    pieces = [
        piece("", 0, 0, delta={"role": "assistant", "content": ""}),
        piece("a", 1, 1, logprobs=words),
        piece("", 1, 0, delta={"reasoning": "hm"}),
        piece("b", 2, 1, "length", logprobs=words),
        piece("c", 2, 0, "stop", stop_reason="x"),
        event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}),
        DONE,
    ]
    upstream = Upstream([Script(pieces)])
    async with before(upstream) as client:
        reply = (await client.post(PATH, json=chat(n=2, logprobs=True))).json()
    assert upstream.bodies[0]["stream"] is True
    first, second = reply["choices"]
    assert (first["message"]["content"], first["message"]["reasoning"], first["stop_reason"]) == ("c", "hm", "x")
    assert (second["message"]["content"], second["finish_reason"]) == ("ab", "length")
    assert (first["logprobs"], second["logprobs"]) == (None, {"content": words["content"] * 2})
    assert reply["usage"]["total_tokens"] == 11


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("a", 1)],
        [piece("a", 1), ERROR],
        [piece("a", 1, finish="stop")],
        [event(choices=[{"index": "no", "delta": {"content": 5}}]), DONE],
        [b"data: {garbage\n\n"],
        [piece("a", 1, index=7, finish="stop"), DONE],
        [event(choices=[{"index": 0, "delta": {"content": "a"}, "finish_reason": 5}]), DONE],
        [piece("a", 1, finish="stop", stop_reason=[1]), DONE],
        [piece("a", 1, finish="stop", delta="no"), DONE],
        [piece("a", 1, finish="stop", logprobs=[1]), DONE],
    ],
)
async def test_a_whole_reply_that_breaks_is_an_error(pieces: list[bytes]) -> None:
    async with before(Upstream([Script(pieces, cut=True)])) as client:
        reply = await client.post(PATH, json=chat())
    assert reply.status_code in (502, 503)
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_reasoning_under_either_name_and_events_with_either_end_of_line_are_read() -> None:
    pieces = [piece("", 1, delta={"reasoning_content": "hm"}), piece("a", 2, finish="stop"), DONE]
    async with before(Upstream([Script([part.replace(b"\n", b"\r\n") for part in pieces])])) as client:
        reply = await client.post(PATH, json=chat())
    message = reply.json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("hm", "a")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/completions", "/tokenize"])
async def test_a_text_that_no_context_has_room_for_never_reaches_the_engine(path: str) -> None:
    """To tokenize one holds up all other requests. The upstream's context is 4,096 tokens, of 32 characters at most."""
    long = "a" * 32 * 4097
    bodies: dict[str, list[dict[str, Any]]] = {
        "/v1/responses": [{"input": [{"role": "user", "content": long}]}, {"input": "a", "instructions": long}],
        "/v1/chat/completions": [chat(tools=[{"description": long}]), chat(documents=[{"text": long}])],
        "/v1/completions": [{"prompt": "a", "suffix": long}, {"prompt": ["a", long]}],
        "/tokenize": [{"messages": [{"role": "assistant", "content": "a", "reasoning": long}]}],
    }
    upstream = Upstream([Script(body=b"{}")])
    async with before(upstream) as client:
        for body in bodies[path]:
            reply = await client.post(path, json={"model": "smollm2", **body})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert upstream.raw == []


@pytest.mark.parametrize("size", [1, 2**20, 2**22])
async def test_a_reply_that_is_not_streamed_passes_whatever_its_size(size: int) -> None:
    body = json.dumps({"data": "x" * size, "usage": {"prompt_tokens": 5, "total_tokens": 5}}).encode()
    async with before(Upstream([Script(body=body)])) as client:
        reply = await client.post("/v1/embeddings", json={"model": "smollm2", "input": "x"})
    assert (reply.content, reply.headers["content-type"]) == (body, "application/json")


async def test_a_large_reply_that_is_cut_has_no_end() -> None:
    script = Script([b'{"data": "' + b"x" * 2**21], cut=True, stream_type="application/json")
    async with before(Upstream([script])) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/embeddings", json={"model": "smollm2", "input": "x"})
        assert (await client.get("/health")).status_code == 200


async def test_samples_and_prompts_are_bounded_and_wait_for_a_place() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with before(upstream, max_samples=8) as client:
        for path, body, field in (
            (PATH, chat(n=9), "n"),
            ("/v1/completions", {"prompt": ["a"] * 9}, "prompt"),
            ("/v1/completions", {"prompt": ["a"] * 3, "n": 3}, "n"),
            ("/v1/completions", {"prompt": "a", "best_of": 9}, "n"),
        ):
            error = (await client.post(path, json={"model": "smollm2", **body})).json()["error"]
            assert (error["param"], error["code"]) == (field, "invalid_value"), error
    assert upstream.raw == []


async def test_a_reply_that_would_hold_too_much_is_refused_up_front() -> None:
    upstream = Upstream([Script(body=b"{}")])
    large: dict[str, Any] = {"logprobs": True, "top_logprobs": 9, "max_tokens": 50}
    async with before(upstream, max_reply_logprobs=999) as client:
        for body in (
            chat(**large, n=2),
            chat(**large, strategy={"type": "self_consistency", "samples": 2}),
            chat(**large, strategy={"type": "self_consistency", "samples": 2}, stream=True),
            chat(logprobs=True),
        ):
            reply = await client.post(PATH, json=body)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logprobs"), reply.text
        assert upstream.raw == []
        assert (await client.post(PATH, json=chat(**large))).status_code == 200


@pytest.mark.parametrize(
    "script",
    [
        Script([piece("a", 1)]),
        Script([piece("a", 1)], cut=True),
        Script([piece("a", 1), ERROR, DONE]),
        Script([piece("a", 1)[:-9]], cut=True),
    ],
)
async def test_a_stream_that_breaks_ends_in_an_error_and_no_done(script: Script) -> None:
    async with before(Upstream([script])) as client:
        reply = await client.post(PATH, json=chat(stream=True))
    last = json.loads(reply.text.split("data: ")[-1])
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["code"] is None or isinstance(last["error"]["code"], str)
    assert "[DONE]" not in reply.text


async def test_errors_keep_status_and_message_in_openais_shape() -> None:
    told = {"error": {"message": "maximum context length is 10", "type": "BadRequestError", "param": None, "code": 400}}
    bodies = [
        Script(status=400, body=json.dumps(told).encode()),
        Script(status=422, body=b"not JSON at all", content_type="text/plain"),
        Script(status=500, body=b'{"error":{"message":"boom","code":500}}'),
        Script(status=503, body=b"No available workers", content_type="text/plain"),
        Script(status=404, body=b'{"detail":"Not Found"}'),
    ]
    async with before(Upstream(bodies)) as client:
        replies = [await client.post(PATH, json=chat()) for _ in range(5)]
    errors = [reply.json()["error"] for reply in replies]
    assert [reply.status_code for reply in replies] == [400, 400, 502, 503, 404]
    assert errors[0] == {
        "message": "maximum context length is 10",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert errors[1]["message"] == "not JSON at all"
    assert "boom" in errors[2]["message"]
    assert "retry-after" in replies[3].headers
    assert errors[4]["message"] == "Not Found"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_the_upstream(stream: bool) -> None:
    upstream = Upstream([Script([piece("a", 1)], hold=asyncio.Event())])
    async with before(upstream) as client:
        asking = asyncio.create_task(client.post(PATH, json=chat(stream=stream)))
        while not upstream.raw:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asking.cancel()
        async with asyncio.timeout(60):
            await upstream.aborted.wait()


async def test_keys_stay_here_and_ids_go_along() -> None:
    upstream = Upstream([Script(body=b"{}")])
    settings = {"api_keys": "client-key", "admin_keys": "admin-key"}
    async with before(upstream, key="client-key", **settings) as client:
        reply = await client.post(PATH, json=chat(), headers={"X-Request-Id": "abc-1", "Cookie": "c=1"})
    [headers] = upstream.headers
    assert headers["authorization"] == "Bearer upstream-key"
    assert headers["x-request-id"] == headers["x-session-id"] == reply.headers["x-request-id"] == "abc-1"
    assert "cookie" not in headers
    assert "client-key" not in str(headers)


async def test_the_engine_is_steered_by_admins_only() -> None:
    upstream = Upstream([Script(body=b"{}")])
    settings = {"api_keys": "client-key", "admin_keys": "admin-key"}
    async with before(upstream, key="client-key", **settings) as client:
        for field in ("priority", "kv_transfer_params", "vllm_xargs", "stream_interval"):
            for path in (PATH, "/v1/completions"):
                reply = await client.post(path, json=chat() | {field: 1})
                assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
        ranked = await client.post(PATH, json=chat(), headers={"X-data-parallel-rank": "1"})
        assert ranked.status_code == 400
        assert upstream.raw == []
        admin = {"Authorization": "Bearer admin-key"}
        assert (await client.post(PATH, json=chat(priority=1), headers=admin)).status_code == 200


async def test_strategies_are_refused_where_they_do_not_work() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with before(upstream) as client:
        for path in ("/v1/completions", "/v1/responses", "/v1/embeddings"):
            for fields in ({"strategy": "best_of_n"}, {"budget": {"tokens": 5}}, {"model": "smollm2@sc"}):
                error = (await client.post(path, json={"model": "smollm2", **fields})).json()["error"]
                assert error["code"] == "unsupported_strategy"
                assert "/v1/chat/completions" in error["message"]
    assert upstream.raw == []


async def test_the_model_is_resolved_when_it_is_missing() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with before(upstream) as client:
        await client.post(PATH, json={"messages": [{"role": "user", "content": "x"}]})
    assert upstream.bodies[0]["model"] == "smollm2"


async def test_an_engine_that_is_not_there_is_503_and_models_still_answer() -> None:
    settings = Settings(engine_url="http://127.0.0.1:9/v1", model_name="smollm2", retries=0)
    async with outthink(settings=settings) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        assert "smollm2@sc" in (await client.get("/v1/models")).text
        for body in (chat(), chat(strategy="best_of_n"), chat(strategy="best_of_n", stream=True)):
            reply = await client.post(PATH, json=body)
            assert reply.status_code == 503
            assert 1 <= int(reply.headers["retry-after"]) <= 120
