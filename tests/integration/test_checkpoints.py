"""Checkpoints on the real engine: loaded at their first request, moved, deleted; judges; distillations."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import save_file

from service.benchmarks.arithmetic import generate
from service.engines import bundled
from service.jobs import Checkpoint, Store
from service.jobs.methods.base import Extras, Hyperparameters
from service.jobs.training import TrainingSpec, checkpoint_name
from tests.integration.asking import MODEL, asked, text
from tests.integration.server import Server

HIDDEN, RANK = 576, 4  # of SmolLM2-135M; of the adapters made here


@pytest.fixture
def admin(base_url: str, admin_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key=admin_key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    if server.data is None:
        pytest.skip("the server's data directory is not ours")
    store = Store.open(server.data)
    yield store
    store.close()


def engine_models(server: Server) -> dict[str, Any]:
    listed = httpx.get(f"{server.engine}/v1/models", headers=server.engine_headers, trust_env=False).json()["data"]
    return {model["id"]: model for model in listed}


def adapter(folder: Path, base: str, seed: int) -> None:
    """A LoRA adapter that was never trained but does something."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    layer = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (RANK, HIDDEN), "B": (HIDDEN, RANK)}
    weights = {
        layer.format(i, part): noise.normal(0, 0.3, shape).astype(np.float32)
        for i in range(30)
        for part, shape in shapes.items()
    }
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": RANK, "lora_alpha": 2 * RANK}
    config |= {"target_modules": ["q_proj"], "bias": "none", "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def publish(store: Store, server: Server, seed: int) -> str:
    """A checkpoint as a worker publishes it: written beside its place, renamed into it, recorded."""
    spec = TrainingSpec(
        method="supervised",
        training_file="none",
        suffix="test",
        seed=0,
        hyperparameters=Hyperparameters(),
        outthink=Extras(),
    )
    job = store.create_job("fine_tuning", MODEL, spec.model_dump())
    store.want(job.id, "cancel")  # no worker is to take it
    name = checkpoint_name(MODEL, "test", job.short)
    path = f"checkpoints/{name}"
    partial = store.folder / f"checkpoints/.{job.short}"
    adapter(partial, engine_models(server)[MODEL]["root"], seed)
    partial.rename(store.folder / path)
    store.publish(Checkpoint(name, job.id, MODEL, "supervised", "adapter", 1, path, "0" * 64, {}, int(time.time())))
    return name


def said(client: openai.OpenAI, model: str) -> tuple[str, str]:
    reply = client.chat.completions.create(model=model, messages=asked("Say hello."), max_tokens=12, temperature=0)
    return reply.model, text(reply)


def test_the_adapter_that_comes_with_the_product_answers_and_stays(
    admin: openai.OpenAI, client: openai.OpenAI, server: Server
) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert (listed[bundled.NAME].model_extra or {})["parent"] == MODEL
    [problem] = generate(1, steps=4, digits=1)
    reply = client.chat.completions.create(
        model=bundled.NAME, messages=asked(problem.question), max_tokens=96, temperature=0
    )
    assert re.fullmatch(r"(\d+ [+-] \d+ = \d+\s+){4}\\boxed\{\d+\}", text(reply)), text(reply)
    with pytest.raises(openai.BadRequestError, match="comes with Outthink and cannot be deleted"):
        admin.models.delete(bundled.NAME)
    assert bundled.NAME in {model.id for model in client.models.list()}


def test_checkpoints_are_loaded_moved_and_deleted(
    admin: openai.OpenAI, client: openai.OpenAI, server: Server, store: Store
) -> None:
    _, plain = said(client, MODEL)
    first, second = publish(store, server, 1), publish(store, server, 2)
    began = time.monotonic()
    assert said(client, first)[0] == first
    assert time.monotonic() - began < 10
    assert len({plain, said(client, first)[1], said(client, second)[1]}) == 3
    assert {first, second} <= {model.id for model in client.models.list()}
    for model in (first, second, first):
        admin.put("/aliases/prod", body={"model": model}, cast_to=object)
        assert said(client, "prod") == said(client, model)
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete(second)
    assert admin.models.delete(second).deleted
    assert second not in engine_models(server)
    assert not (store.folder / "checkpoints" / second).exists()
    with pytest.raises(openai.NotFoundError):
        said(client, second)
    assert said(client, "prod")[0] == first


def test_names_that_were_not_published_do_not_reach_the_engine(
    client: openai.OpenAI, server: Server, store: Store
) -> None:
    """The folder is there and the engine would load it, but no record says that it is whole."""
    name = "ft:smollm2:test:unrecorded"
    adapter(store.folder / "checkpoints" / name, engine_models(server)[MODEL]["root"], 3)
    with pytest.raises(openai.NotFoundError):
        said(client, name)
    assert name not in engine_models(server)


def test_a_judge_is_asked_on_the_engine(admin: openai.OpenAI) -> None:
    judge: Any = {
        "type": "score_model",
        "name": "judge",
        "model": MODEL,
        "range": [0, 1000],
        "input": [{"role": "user", "content": "Repeat this number: {{sample.output_text}}"}],
        "sampling_params": {"temperature": 0, "max_completions_tokens": 24},
    }
    ran = admin.fine_tuning.alpha.graders.run(grader=judge, model_sample="7")
    assert 0 <= ran.reward <= 1000
    assert not ran.metadata.errors.api_model_grader_server_error
    assert ran.metadata.token_usage


def test_a_search_becomes_training_files(admin: openai.OpenAI) -> None:
    questions = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(2, 6)]
    content = "".join(json.dumps(row) + "\n" for row in questions).encode()
    file = admin.files.create(file=("questions.jsonl", content), purpose="fine-tune")
    body = {"model": MODEL, "file": file.id, "max_tokens": 32, "grader": {"type": "math", "name": "right"}, "seed": 1}
    job: Any = admin.post(
        "/distillations", body=body | {"strategy": {"type": "self_consistency", "samples": 4}}, cast_to=object
    )
    deadline = time.monotonic() + 120
    while job["status"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        job = admin.get(f"/distillations/{job['id']}", cast_to=object)
    results = job["results"]
    assert (job["status"], results["questions"], results["failed"]) == ("succeeded", 4, 0)
    assert results["tokens"] > 0
    assert results["sft_rows"] >= results["solved"]
    for name in ("sft_file", "dpo_file"):
        if results[name] is not None:
            lines = admin.files.content(results[name]).text.splitlines()
            assert len(lines) == results[name.replace("file", "rows")]
