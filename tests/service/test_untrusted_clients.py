"""What an untrusted client may send to do harm: refused or passed on, never a 500, never a file, never another host."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from service.settings import Settings
from service.web import bodies
from tests.conftest import outthink
from tests.faulty import FaultyVllm
from tests.service.test_faults import port_of, proper, said

PATH = "/v1/chat/completions"
MESSAGES = '"model": "smollm2", "messages": [{"role": "user", "content": "What is 6 * 7?"}]'


@asynccontextmanager
async def service(key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """The service before a vLLM of words."""
    server = await asyncio.start_server(FaultyVllm(said).serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{port_of(server)}"
    settings = Settings(engine_url=url, retries=0, api_keys=(key,) if key else (), max_samples=64)
    async with server, outthink(settings=settings, key=key) as client:
        yield client


def nested(depth: int, kind: str = "[]") -> str:
    opening = {"[]": "[", "{}": '{"a":'}[kind]
    return opening * depth + "1" + kind[1] * depth


ODD = [
    *(nested(depth, kind) for depth in (253, 300, 1000) for kind in ("[]", "{}")),
    *("1e400", "-1e400", "1" * 400, "-1" + "0" * 40, "0.1e1", "NaN", "-0", "18446744073709551616"),
    *('"\\ud800"', '"\\u0000"', '"\\u202e"', '"' + "é" * 999 + '"', '"' + "a" * 99_999 + '"'),
    *("null", "true", "[]", "{}", '""', "[null]", '[{"a": [null]}]'),
]
FIELDS = (
    *(
        "temperature",
        "top_p",
        "max_tokens",
        "n",
        "seed",
        "stop",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "min_tokens",
        "cache_salt",
    ),
    *("tools", "tool_choice", "response_format", "metadata", "user", "stream", "stream_options", "model", "messages"),
    *("chat_template_kwargs", "documents", "something_new", "strategy", "budget", "answer", "include", "dry_run"),
)
PARAMETERS = {
    "chain_of_thought": ("examples", "new"),
    "best_of_n": ("samples", "scorer", "select", "type"),
    "mcts": ("iterations", "step", "exploration", "value"),
}


@pytest.mark.parametrize("strategy", ["", '"strategy": {"type": "self_consistency", "samples": 2}, "max_tokens": 9,'])
async def test_odd_values_of_any_field_are_refused_or_passed_on(
    strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with service() as client:

        async def sent(field: str, value: str) -> None:
            body = f'{{{MESSAGES}, {strategy} "{field}": {value}}}'  # the last of two equal names is what counts
            reply = await client.post(PATH, content=body.encode())
            assert reply.status_code in (200, 400, 404, 502, 504), (field, value[:60], reply.text[:300])
            assert reply.status_code == 200 or proper(reply.json())

        for field in FIELDS:
            await asyncio.gather(*(sent(field, value) for value in ODD))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_odd_parameters_of_strategies_are_refused() -> None:
    async with service() as client:

        async def sent(type_: str, name: str, value: str) -> None:
            body = f'{{{MESSAGES}, "dry_run": true, "strategy": {{"type": "{type_}", "{name}": {value}}}}}'
            reply = await client.post(PATH, content=body.encode())
            assert reply.status_code in (200, 400), (type_, name, value[:60], reply.text[:300])
            assert reply.status_code == 200 or proper(reply.json())

        for type_, names in PARAMETERS.items():
            await asyncio.gather(*(sent(type_, name, value) for name in names for value in ODD))


@pytest.mark.parametrize(
    "path",
    [
        "/docs/assets/../../pyproject.toml",
        "/docs/assets/..%2f..%2f..%2f..%2fetc/passwd",
        "/docs/assets/%2e%2e/%2e%2e/etc/passwd",
        "/docs/assets//etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "/v1/models/%0d%0aSet-Cookie:%20a=b",
        "/v1/files/..%2f..%2fsettings",
        "/%0d%0aX-Evil:%201",
        "//evil.example/v1/models",
        "http://evil.example/v1/models",
    ],
)
async def test_no_path_leads_out(path: str) -> None:
    """Asked over a bare socket, since clients tidy paths before they send them."""
    async with service() as client:
        told = await raw(client, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"root:" not in body
    assert b"requires-python" not in body
    assert b"\r\nset-cookie" not in head.lower()
    assert b"\r\nx-evil" not in head.lower()
    status = int(head.split()[1])
    assert status in (404, 405) or (status == 200 and path.startswith("http://")), told


async def raw(client: httpx.AsyncClient, request: bytes) -> bytes:
    address = urlsplit(str(client.base_url))
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    async with asyncio.timeout(25):  # before the service is tired of waiting for a body
        told = await reader.read()
    writer.close()
    return told


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999",
        b"Content-Length: 1, 2",
        b"Content-Length: \xb2",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"X-Request-Id: a\nb",
        b"X-Request-Id: " + b"a" * 9999,
        b"X-Request-Id: \xff\xfe${jndi:ldap://evil}",
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: Bearer " + b"k" * 9999,
        b"Authorization: Basic \x00",
        b"X-Data-Parallel-Rank: 1",
        b"Expect: 100-continue",
    ],
)
async def test_no_header_does_harm(header: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with service(key="sk-right") as client:
        told = await raw(client, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\n\r\n")
        assert int(told.split()[1]) in (400, 401, 413, 431), told
        assert b"jndi" not in told
        assert (await client.get("/v1/models")).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_body_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_SECONDS", 0.2)
    async with service() as client:
        told = await raw(client, b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{" % PATH.encode())
    head, _, body = told.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == 400
    assert proper(json.loads(body))
    assert b"connection: close" in head.lower()


async def test_a_client_that_leaves_before_its_body_ends_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with service() as client:
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{" % PATH.encode())
        await writer.drain()
        writer.close()
        async with asyncio.timeout(30):
            while not recorded(caplog, "request"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def recorded(caplog: pytest.LogCaptureFixture, message: str) -> bool:
    return any(record.getMessage() == message and getattr(record, "status", 0) for record in caplog.records)


async def test_duplicate_names_cannot_hide_a_field_from_the_checks() -> None:
    """Of two equal names the last counts, here as in vLLM, to which the bytes go as they came."""
    async with service(key="sk-client") as client:
        for values, status in (("null, 9", 400), ("9, null", 200)):
            first, second = values.split(", ")
            body = f'{{{MESSAGES}, "priority": {first}, "priority": {second}}}'
            assert (await client.post(PATH, content=body.encode())).status_code == status
