"""Without keys a server trusts loopback, and every page in a browser of that machine can send requests there."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.engines.scripted import ScriptedEngine
from service.settings import Settings
from tests.conftest import chat, outthink

PATH = "/v1/chat/completions"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, branch: "7")


def ask(client: httpx.AsyncClient, **headers: str) -> Any:
    """A request that generates, with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(PATH, json=chat(strategy="chain_of_thought"), headers=named)


def told(reply: httpx.Response) -> tuple[int, str | None]:
    """The status, and the code of an error in OpenAI's shape."""
    if reply.status_code < 400:
        return reply.status_code, None
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status_code, error["code"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.7", "[::2]:80"]
)
async def test_a_name_that_was_made_to_point_at_loopback_is_refused(host: str) -> None:
    async with outthink(engine()) as client:
        for reply in (await client.get("/v1/models", headers={"Host": host}), await ask(client, Host=host)):
            assert told(reply) == (403, "forbidden_host")
        assert "OUTTHINK_ALLOWED_HOSTS" in reply.json()["error"]["message"]
        assert (await client.get("/health", headers={"Host": host})).status_code == 200, "probes ask by address"


@pytest.mark.parametrize(
    "host", ["localhost:8000", "LOCALHOST", "app.localhost", "127.0.0.1", "127.0.0.2:1", "[::1]:8000"]
)
async def test_loopback_goes_by_all_its_names(host: str) -> None:
    async with outthink(engine()) as client:
        assert told(await ask(client, Host=host)) == (200, None)


async def test_a_proxys_name_is_allowed_by_the_settings() -> None:
    async with outthink(engine(), settings=Settings(allowed_hosts=("llm.example",))) as client:
        assert told(await ask(client, Host="LLM.example:443")) == (200, None)
        assert told(await ask(client, Host="localhost")) == (200, None)
        assert told(await ask(client, Host="evil.example")) == (403, "forbidden_host")
    async with outthink(engine(), settings=Settings(allowed_hosts=("*",))) as client:
        assert told(await ask(client, Host="evil.example")) == (200, None)


async def test_with_keys_any_host_will_do_unless_the_settings_name_some() -> None:
    keys: dict[str, Any] = {"api_keys": "a"}
    async with outthink(engine(), settings=Settings(**keys), key="a") as client:
        assert told(await ask(client, Host="llm.example")) == (200, None)
    async with outthink(engine(), settings=Settings(**keys, allowed_hosts=("llm.example",)), key="a") as client:
        assert told(await ask(client, Host="llm.example")) == (200, None)
        assert told(await ask(client, Host="other.example")) == (403, "forbidden_host")


FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_pages_of_other_sites_change_nothing_and_generate_nothing(headers: dict[str, str]) -> None:
    scripted = engine()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with outthink(scripted) as client:
        assert told(await ask(client, **headers)) == (403, "cross_site_request")
        form = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "evals"}}
        uploaded = await client.post("/v1/files", headers=named, **form)  # type: ignore[arg-type]
        assert told(uploaded) == (403, "cross_site_request")
        assert told(await client.delete("/v1/models/x", headers=named)) == (403, "cross_site_request")
        moved = await client.put("/v1/aliases/a", json={"model": "smollm2"}, headers=named)
        assert told(moved) == (403, "cross_site_request")
        assert (await client.get("/v1/files")).json()["data"] == []
        assert scripted.calls == []


async def test_pages_of_this_server_and_clients_that_are_no_browsers_are_served() -> None:
    async with outthink(engine()) as client:
        own = f"http://{client.base_url.netloc.decode()}"
        assert told(await ask(client)) == (200, None)
        assert told(await ask(client, Origin=own)) == (200, None)
        assert told(await ask(client, Origin=own, Sec_Fetch_Site="same-origin")) == (200, None)
        behind_a_proxy = {"Origin": "https://llm.example", "Sec_Fetch_Site": "same-origin"}
        assert told(await ask(client, **behind_a_proxy)) == (200, None)
        link = {"Sec-Fetch-Site": "cross-site", "Origin": "null"}
        assert (await client.get("/docs", headers=link)).status_code == 200, "a link from elsewhere only reads"


async def test_a_site_that_the_settings_name_may_ask() -> None:
    origin = {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"}
    async with outthink(engine(), settings=Settings(cors_origins=("https://app.example",))) as client:
        reply = await ask(client, **origin)
        assert told(reply) == (200, None)
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert told(await ask(client, Origin="https://evil.example")) == (403, "cross_site_request")
    async with outthink(engine(), settings=Settings(cors_origins=("*",))) as client:
        assert told(await ask(client, **origin)) == (200, None)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "Multipart/form-data; boundary=x"])
async def test_what_an_html_form_could_send_is_no_json(kind: str) -> None:
    async with outthink(engine()) as client:
        for path in (PATH, "/v1/fine_tuning/jobs", "/tokenize"):
            reply = await client.post(path, content=b"{}", headers={"Content-Type": kind})
            assert told(reply) == (415, "unsupported_content_type")
            assert "application/json" in reply.json()["error"]["message"]


async def test_an_upload_is_a_form() -> None:
    async with outthink(engine()) as client:
        reply = await client.post("/v1/files", files={"file": ("a.jsonl", b"{}")}, data={"purpose": "evals"})
    assert reply.status_code == 200


async def test_with_keys_pages_have_none_and_nothing_else_is_looked_at() -> None:
    settings = Settings(api_keys="a")
    async with outthink(engine(), settings=settings, key="a") as client:
        body = httpx.Request("POST", "http://x", json=chat(strategy="chain_of_thought")).content
        reply = await client.post(PATH, content=body, headers=FORM | {"Origin": "https://app.example"})
    assert reply.status_code == 200
