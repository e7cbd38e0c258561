"""The names of models: with slashes, at signs and colons, as clients send them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.integration.asking import MODEL, asked, extras, strategy, text
from tests.integration.server import Server, wait_for

ADAPTERS = ("team/smol", "ft:smollm2:tiny:1")
WIDTH = 576  # of SmolLM2-135M


@pytest.fixture(scope="module")
def adapters(server: Server, client: openai.OpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The base model under two more names: an adapter that changes nothing."""
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(folder)
    with httpx.Client(base_url=server.engine, headers=server.engine_headers, trust_env=False, timeout=60) as engine:
        for name in ADAPTERS:
            body = {"lora_name": name, "lora_path": str(folder)}
            engine.post("/v1/load_lora_adapter", json=body).raise_for_status()
        yield
        for name in ADAPTERS:
            engine.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()


def write_adapter(folder: Path) -> None:
    """A LoRA adapter of zeros, in PEFT's form."""
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    size = 8 * WIDTH * 4
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    header = json.dumps(
        {
            f"{layer}.lora_A.weight": {"dtype": "F32", "shape": [8, WIDTH], "data_offsets": [0, size]},
            f"{layer}.lora_B.weight": {"dtype": "F32", "shape": [WIDTH, 8], "data_offsets": [size, 2 * size]},
        }
    ).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(2 * size)
    (folder / "adapter_model.safetensors").write_bytes(content)


def exists(client: openai.OpenAI, name: str) -> bool:
    try:
        return client.models.retrieve(name).id == name
    except openai.NotFoundError:
        return False


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize("name", ADAPTERS)
def test_models_that_the_engine_learns_later_work_under_their_names(client: openai.OpenAI, name: str) -> None:
    wait_for(lambda: exists(client, name))
    assert exists(client, f"{name}@small")
    listed = {model.id for model in client.models.list()}
    assert {name, f"{name}@small", f"{name}@self_consistency"} <= listed
    plain = client.chat.completions.create(model=name, messages=asked(), max_tokens=4)
    assert plain.model == name
    searched = client.chat.completions.create(model=f"{name}@small", messages=asked(), max_tokens=4)
    assert searched.model == name
    assert extras(searched)["strategy"]["samples"] == 4
    assert (searched.system_fingerprint or "").startswith(name)


@pytest.mark.usefixtures("adapters")
def test_slash_may_be_sent_encoded_or_not(server: Server, client: openai.OpenAI, key: str) -> None:
    wait_for(lambda: exists(client, "team/smol"))
    for path in ("team/smol", "team%2Fsmol", "team%2Fsmol%40small", "team/smol@small"):
        reply = httpx.get(f"{server.api}/models/{path}", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
        assert reply.status_code == 200, path
        assert reply.json()["root" if "small" in path else "id"] == "team/smol"


@pytest.mark.usefixtures("adapters")
def test_judge_may_be_another_model(client: openai.OpenAI) -> None:
    wait_for(lambda: exists(client, "team/smol"))
    scorer = {"type": "judge", "model": "team/smol"}
    reply = client.chat.completions.create(
        model=MODEL, messages=asked(), max_tokens=8, extra_body=strategy("best_of_n", samples=2, scorer=scorer)
    )
    assert extras(reply)["usage"]["scorer"]["completion"] == 2


def test_preset_can_be_retrieved(client: openai.OpenAI) -> None:
    found = client.models.retrieve(f"{MODEL}@self_consistency")
    assert found.id == f"{MODEL}@self_consistency"
    assert (found.model_extra or {})["parent"] == MODEL


@pytest.mark.parametrize(
    "name", ["gpt-4o", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B@sc", f"{MODEL}@nothing", "@sc"]
)
def test_unknown_names_are_not_found(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as listed:
        client.models.retrieve(name)
    with pytest.raises(openai.NotFoundError) as asked_for:
        client.chat.completions.create(model=name, messages=asked(), max_tokens=4)
    for error in (listed.value, asked_for.value):
        assert error.code == "model_not_found"
        assert error.param == "model"
        assert MODEL in error.message or "self_consistency" in error.message


def test_missing_model_is_the_servers_own(server: Server, key: str) -> None:
    body = {"messages": asked(), "max_tokens": 4} | strategy(samples=2)
    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.post(f"{server.api}/chat/completions", json=body, headers=headers, trust_env=False, timeout=60)
    assert reply.json()["model"] == MODEL


def test_name_of_a_preset_is_no_model_of_completions(client: openai.OpenAI) -> None:
    assert text(client.chat.completions.create(model=f"{MODEL}@cot", messages=asked(), max_tokens=4))
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=f"{MODEL}@cot", prompt="One, two,", max_tokens=4)
    assert error.value.code == "unsupported_strategy"
    assert "/v1/chat/completions" in error.value.message
