"""What one key finds in vLLM's prefix cache says nothing of what others have sent."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.background import executor
from service.engines.vllm.salts import read_salts
from service.settings import Settings
from tests.conftest import chat, outthink
from tests.faulty import FaultyVllm, Pieces, whole
from tests.service.fine_tuning import MATH, QUESTION, lines
from tests.service.test_faults import CASES, port_of, said

PATH = "/v1/chat/completions"
KEYS = {"api_keys": "alice,bob", "admin_keys": "root"}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "smollm2",
    "range": [0, 9],
    "input": [{"role": "user", "content": "Grade {{sample.output_text}}."}],
}


@dataclass
class Recording(FaultyVllm):
    """Keeps what it was asked, and rates all answers alike, as a reward model."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def reply(self, path: str, body: dict[str, Any]) -> Pieces:
        if body:
            self.asked.append((path, body))
        if path == "/pooling":
            return whole({"data": [{"index": index, "data": [0.5]} for index in range(len(body["input"]))]})
        return await super().reply(path, body)

    @property
    def salts(self) -> set[str | None]:
        """Those of all that went through the cache."""
        return {body.get("cache_salt") for path, body in self.asked if path.startswith(("/v1/", "/pooling"))}


@asynccontextmanager
async def service(**settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Recording]]:
    vllm = Recording(said)
    server = await asyncio.start_server(vllm.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{port_of(server)}"
    tables = {"outcome": {"kind": "outcome", "model": "smollm2", "url": url}}
    tables["verifier"] = {"kind": "generative", "model": "smollm2", "url": url}
    fields = {"engine_url": url, "retries": 0, "scorers": tables, **settings}
    async with server, outthink(settings=Settings.model_validate(fields)) as client:
        yield client, vllm


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def salts_of(client: httpx.AsyncClient, vllm: Recording, key: str, **fields: Any) -> set[str | None]:
    """What a request of this key was salted with."""
    vllm.asked.clear()
    reply = await client.post(PATH, json=chat(max_tokens=30, **fields), headers=bearer(key))
    assert reply.status_code == 200, reply.text
    return vllm.salts


@pytest.mark.parametrize("case", [*CASES, "outcome", "verifier"])
async def test_every_call_for_a_key_has_its_one_salt(case: str) -> None:
    """Policy and scorer alike: a search finds its own prefixes."""
    scored = {"strategy": {"type": "best_of_n", "samples": 3, "scorer": case}}
    fields = ({"strategy": CASES[case]} if CASES[case] else {}) if case in CASES else scored
    async with service(**KEYS) as (client, vllm):
        found = {key: await salts_of(client, vllm, key, **fields) for key in ("alice", "bob", "root")}
        assert await salts_of(client, vllm, "alice", **fields) == found["alice"]
    assert all(len(salts) == 1 and None not in salts for salts in found.values())
    assert len(set.union(*found.values())) == 3


@pytest.mark.parametrize("path", [PATH, "/v1/completions", "/v1/responses", "/v1/embeddings"])
async def test_every_endpoint_that_uses_the_cache_is_salted(path: str) -> None:
    async with service(**KEYS) as (client, vllm):
        await client.post(path, json=chat(prompt=[[1]], input="a"), headers=bearer("alice"))
        await client.post("/tokenize", json={"model": "smollm2", "prompt": "a"}, headers=bearer("alice"))
    [(_, body), (_, tokenized)] = vllm.asked
    assert len(body["cache_salt"]) == 64
    assert "cache_salt" not in tokenized


@pytest.mark.parametrize("settings", [{}, {**KEYS, "shared_prefix_cache": True}])
async def test_without_keys_and_where_the_settings_say_so_all_share_the_cache(settings: dict[str, Any]) -> None:
    async with service(**settings) as (client, vllm):
        for fields in ({}, {"strategy": CASES["best_of_n"]}):
            assert await salts_of(client, vllm, "alice", **fields) == {None}
            assert await salts_of(client, vllm, "alice", **fields, cache_salt="mine") == {"mine"}


async def test_a_client_may_keep_its_own_users_apart_but_not_reach_another_keys_prompts() -> None:
    async with service(**KEYS) as (client, vllm):
        for fields in ({}, {"strategy": CASES["best_of_n"]}):
            plain = await salts_of(client, vllm, "alice", **fields)
            one = await salts_of(client, vllm, "alice", **fields, cache_salt="one")
            assert one == await salts_of(client, vllm, "alice", **fields, cache_salt="one")
            two = await salts_of(client, vllm, "alice", **fields, cache_salt="two")
            [of_alice] = plain
            others = await salts_of(client, vllm, "bob", **fields, cache_salt="one")
            forged = await salts_of(client, vllm, "bob", **fields, cache_salt=of_alice)
            assert len(plain | one | two | others | forged) == 5


async def test_a_salt_that_is_none_is_refused_and_cannot_hide_behind_another() -> None:
    async with service(**KEYS) as (client, vllm):
        wrongs: tuple[Any, ...] = ("", 7, ["a"], {})
        for wrong in wrongs:
            for fields in ({}, {"strategy": CASES["best_of_n"]}):
                reply = await client.post(PATH, json=chat(cache_salt=wrong, **fields), headers=bearer("alice"))
                assert (reply.status_code, reply.json()["error"]["param"]) == (400, "cache_salt")
        assert vllm.asked == []
        twice = json.dumps(chat())[:-1] + ', "cache_salt": "x", "cache_salt": null}'
        headers = bearer("alice") | {"Content-Type": "application/json"}
        await client.post(PATH, content=twice.encode(), headers=headers)
        assert vllm.salts == await salts_of(client, vllm, "alice")


async def test_jobs_and_judges_have_a_salt_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEAT_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(executor, name, 0.02)
    async with service(**KEYS) as (client, vllm):
        client.headers.update(bearer("root"))
        keys = [await salts_of(client, vllm, key) for key in ("alice", "bob", "root")]
        vllm.asked.clear()
        judged = {"grader": JUDGE, "model_sample": "42"}
        assert (await client.post("/v1/fine_tuning/alpha/graders/run", json=judged)).status_code == 200
        judges = vllm.salts
        vllm.asked.clear()
        file = await client.post("/v1/files", files={"file": ("q.jsonl", lines(QUESTION))}, data={"purpose": "evals"})
        strategy = {"type": "best_of_n", "samples": 2, "scorer": "outcome"}
        job = {"model": "smollm2", "file": file.json()["id"], "strategy": strategy, "grader": MATH}
        queued = (await client.post("/v1/distillations", json=job)).json()
        while (told := (await client.get(f"/v1/distillations/{queued['id']}")).json())["status"] != "succeeded":
            assert told["status"] != "failed", told
            await asyncio.sleep(0.02)
    assert vllm.salts == judges
    assert len(judges) == 1
    assert not judges & set.union({None}, *keys)


def test_salts_hang_on_the_key_and_on_a_secret_that_stays_in_the_data_directory(tmp_path: Path) -> None:
    def salts(keys: str, folder: str = "data", admins: str = "") -> dict[str, str]:
        fields = {"api_keys": keys, "admin_keys": admins, "data_dir": tmp_path / folder}
        settings = Settings.model_validate(fields)
        known = read_salts(settings)
        return {name: known.salt(name) for name in (*settings.client_names, *settings.admin_names, "jobs")}

    first = salts("alice,bob")
    assert salts("alice,bob") == first, "another process finds the same"
    assert salts("eve,alice")["client-2"] == first["client-1"], "a key that moves up keeps its own, and no other's"
    assert salts("jobs,bob")["client-1"] != first["jobs"]
    assert salts("bob", admins="alice")["admin-1"] == first["client-1"]
    assert not set(salts("alice,bob", "elsewhere").values()) & set(first.values())
    secret = tmp_path / "data" / "cache.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text() not in str(first)
    assert "alice" not in str(first)
