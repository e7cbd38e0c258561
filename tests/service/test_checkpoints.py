"""Checkpoints and aliases as models: known, listed, moved, deleted; which names reach the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from service.app import create_app
from service.context import Context
from service.engines.scripted import Reply, ScriptedEngine
from service.registry.checkpoints import remove
from service.settings import Settings
from tests.conftest import chat, outthink, serving, shared_workers
from tests.service.fine_tuning import context_of, published, queued, service
from tests.upstream import Script, Upstream

NAME = "ft:smollm2:x:0123"


@asynccontextmanager
async def over_vllm(upstream: Upstream) -> AsyncIterator[tuple[httpx.AsyncClient, Context]]:
    """The service over something that speaks vLLM's API and lists one base model."""
    async with serving(upstream.app()) as url:
        app = create_app(Settings(engine_url=f"{url}/v1"), workers=shared_workers(), manage=False)
        async with serving(app) as base, httpx.AsyncClient(base_url=base, trust_env=False) as client:
            yield client, context_of(app)


def a_job(context: Context, **extras: Any) -> Any:
    return context.store.create_job("fine_tuning", "smollm2", {"outthink": extras})


async def test_a_checkpoint_is_a_model_from_the_moment_it_is_published() -> None:
    upstream = Upstream([Script(body=b'{"choices": [], "usage": {"completion_tokens": 1}}')])
    async with over_vllm(upstream) as (client, context):
        unknown = await client.post("/v1/chat/completions", json=chat(model=NAME))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        published(context, a_job(context), NAME)
        assert (await client.post("/v1/chat/completions", json=chat(model=NAME))).status_code == 200
        assert [body["model"] for body in upstream.bodies] == [NAME]


async def test_merged_weights_are_not_asked_of_an_engine_that_does_not_have_them() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with over_vllm(upstream) as (client, context):
        published(context, a_job(context), NAME, form="merged")
        reply = await client.post("/v1/chat/completions", json=chat(model=f"{NAME}@sc"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_not_served")
        assert "OUTTHINK_MODEL=<OUTTHINK_DATA_DIR>/checkpoints/" in reply.json()["error"]["message"]
        assert (await client.get(f"/v1/models/{NAME}")).json()["form"] == "merged"
        assert upstream.bodies == []


async def test_adapters_that_training_samples_from_are_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with over_vllm(Upstream([Script(body=b"{}")])) as (client, context):

        async def models() -> list[dict[str, Any]]:
            return [{"id": name, "object": "model", "created": 1} for name in ("smollm2", f"{NAME}:rollouts-2-ab")]

        monkeypatch.setattr(context.backends.base.client, "models", models)
        await context.models.refresh()
        assert list(context.models.listed) == ["smollm2"]
        reply = await client.post("/v1/chat/completions", json=chat(model=f"{NAME}:rollouts-2-ab"))
        assert reply.status_code == 404


async def test_names_that_nobody_published_never_reach_the_engine() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with over_vllm(upstream) as (client, context):
        published(context, a_job(context), NAME)
        for name in ("ft:smollm2:x:../../etc", "../base", "/etc/passwd", "ft:smollm2:x:0124", "a\0b", "."):
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"):
                assert (await client.post(path, json=chat(model=name))).status_code == 404
        assert upstream.bodies == []


async def test_models_show_where_they_come_from() -> None:
    async with service() as (client, context):
        job = context.store.job(await queued(client))
        published(context, job, NAME)
        found: Any = (await client.models.retrieve(NAME)).to_dict()
        expected = {"parent": "smollm2", "method": "supervised", "job": job.id, "created": 7, "step": 3}
        assert {key: found[key] for key in expected} == expected
    async with service() as (client, _):  # a new service lists them at once
        names = {model.id async for model in client.models.list()}
        assert {NAME, f"{NAME}@sc", "smollm2"} <= names


async def test_strategies_work_with_checkpoints() -> None:
    async with service() as (client, context):
        published(context, a_job(context), NAME)
        reply = await client.chat.completions.create(
            model=f"{NAME}@self_consistency", messages=[{"role": "user", "content": "?"}]
        )
        assert (reply.model, reply.system_fingerprint) == (NAME, NAME)


async def test_a_trained_verifier_is_a_scorer_by_its_name() -> None:
    """In the format that it was trained in, its marks folded as that one's are to be."""
    turns = f"{NAME}5"

    def script(prompt: str, branch: int) -> Reply:
        if "Solution so far" in prompt:
            return Reply("Yes", labels={"Yes": -0.1, "No": -2.4})
        return Reply("+", labels={"+": -0.7, "-": -0.7}) if "6 * 7" in prompt else Reply("6 * 7\n\n\\boxed{42}")

    async with service(ScriptedEngine(script)) as (client, context):
        published(context, a_job(context), NAME, method="verifier")
        published(context, a_job(context), f"{NAME}4")
        published(context, a_job(context, format="rlhflow"), turns, method="verifier")
        await client.put("/aliases/prm", body={"model": NAME}, cast_to=object)
        listed: Any = await client.get("/strategies", cast_to=object)
        assert {NAME, turns} <= set(listed["scorers"])

        async def scored(scorer: Any) -> Any:
            reply = await client.chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": "?"}],
                extra_body={
                    "strategy": {"type": "best_of_n", "samples": 2, "scorer": scorer},
                    "include": ["candidates"],
                },
            )
            told: Any = reply.to_dict()["outthink"]
            return told["strategy"]["aggregate"], [candidate["score"] for candidate in told["candidates"]]

        for scorer in (NAME, "prm", {"type": "generative", "model": NAME}):
            assert await scored(scorer) == ("last", [pytest.approx(0.909, 0.01)] * 2)
            assert context.engine.calls[-1][1].model == NAME  # type: ignore[attr-defined]
        assert await scored(turns) == ("min", [pytest.approx(0.5)] * 2)
        known = {"type": "generative", "model": turns, "format": "rlhflow"}
        assert await scored(known) == ("last", [pytest.approx(0.5)] * 2)
        with pytest.raises(openai.BadRequestError, match="there is no scorer"):
            await scored(f"{NAME}4")


async def test_an_alias_is_moved_and_rolled_back() -> None:
    async with service() as (client, context):
        old, new = f"{NAME}a", f"{NAME}b"
        for name in (old, new):
            published(context, a_job(context), name)

        async def answers() -> str:
            messages: Any = [{"role": "user", "content": "?"}]
            return (await client.chat.completions.create(model="prod@sc", messages=messages)).model

        for model in (old, new, old):
            put: Any = await client.put("/aliases/prod", body={"model": model}, cast_to=object)
            assert (put["id"], put["model"]) == ("prod", model)
            assert await answers() == model
        shown: Any = (await client.models.retrieve("prod")).to_dict()
        assert (shown["root"], shown["id"]) == (old, "prod")
        listed: Any = await client.get("/aliases", cast_to=object)
        assert [alias["id"] for alias in listed["data"]] == ["prod"]
        with pytest.raises(openai.BadRequestError, match="prod"):
            await client.models.delete(old)
        await client.put("/aliases/team/next", body={"model": "prod"}, cast_to=object)
        assert context.store.alias("team/next").model == old
        for name in ("prod", "team/next"):
            await client.delete(f"/aliases/{name}", cast_to=object)
        with pytest.raises(openai.NotFoundError):
            await answers()


async def test_an_alias_that_another_process_moved_is_followed() -> None:
    async with service() as (client, context):
        for name in ("a", "b"):
            published(context, a_job(context), f"{NAME}{name}")
        await client.put("/aliases/prod", body={"model": f"{NAME}a"}, cast_to=object)
        context.store.point("prod", f"{NAME}b")
        async with asyncio.timeout(60):
            while context.models.lookup("prod") != f"{NAME}b":  # noqa: ASYNC110 (the catalogue looks once a second)
                await asyncio.sleep(0.05)


BAD_ALIASES = [
    ("prod", "nope", 404, "model"),
    ("prod", "smollm2@sc", 404, "model"),
    ("a@sc", "smollm2", 400, "name"),
    ("ft:x:y:z", "smollm2", 400, "name"),
    ("a b", "smollm2", 400, "name"),
    ("..%2f..", "smollm2", 400, "name"),
    ("smollm2", "smollm2", 400, "name"),
]


async def test_aliases_stand_for_models_under_plain_names() -> None:
    async with outthink(ScriptedEngine(lambda prompt, branch: "")) as client:
        for name, model, status, param in BAD_ALIASES:
            refused = await client.put(f"/v1/aliases/{name}", json={"model": model})
            assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


async def test_a_deleted_checkpoint_is_gone() -> None:
    async with service() as (client, context):
        checkpoint = published(context, a_job(context), NAME)
        folder = context.store.folder / checkpoint.path
        deleted = await client.models.delete(NAME)
        assert (deleted.id, deleted.deleted, deleted.object) == (NAME, True, "model")
        assert not folder.exists()
        assert list(folder.parent.iterdir()) == []
        for ask in (client.models.delete, client.models.retrieve):
            with pytest.raises(openai.NotFoundError):
                await ask(NAME)
        with pytest.raises(openai.BadRequestError, match="no checkpoint"):
            await client.models.delete("smollm2")
    async with service() as (client, _):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(NAME)


async def test_the_engine_is_told_of_a_deletion_and_may_list_the_name_still() -> None:
    upstream = Upstream([Script(body=b"{}")])
    async with over_vllm(upstream) as (client, context):
        published(context, a_job(context), NAME)
        context.models.listed[NAME] = {"id": NAME}
        upstream_told = len(upstream.bodies)
        assert (await client.delete(f"/v1/models/{NAME}")).status_code == 200
        assert len(upstream.bodies) == upstream_told + 1
        assert upstream.bodies[-1] == {"lora_name": NAME}
        assert (await client.post("/v1/chat/completions", json=chat(model=NAME))).status_code == 404


async def test_a_record_cannot_delete_what_is_no_checkpoint() -> None:
    async with service() as (_, context):
        checkpoint = published(context, a_job(context), NAME)
        for path in ("checkpoints", "files", "../x", "checkpoints/../files", "/etc"):
            with pytest.raises(ValueError, match="not in the folder"):
                remove(context.store.folder, replace(checkpoint, path=path))
