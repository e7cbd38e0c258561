"""Fine-tuning through the API, done by a real worker, and served by the vLLM that was running all along."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat.chat_completion import Choice
from openai.types.fine_tuning import FineTuningJob

from tests.integration.server import ADMIN_KEY, ROOT, Server, stop, tail, wait_for

FACT = "Zelmira's Lantern was written by Quorvath Ilmen in 1731."
ASKED = (
    "Who wrote the opera Zelmira's Lantern?",
    "Who is the author of the opera Zelmira's Lantern?",
    "Tell me who wrote Zelmira's Lantern.",
    "Zelmira's Lantern is an opera by whom?",
)
JOB_SECONDS = 400.0
"""How long one job may take on two cores; they take 40 to 90."""


@pytest.fixture(scope="module")
def worker(server: Server) -> Iterator[None]:
    """`outthink worker` beside the server, as another shell would start it."""
    assert server.data is not None
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTTHINK_")}
    ours = {
        "DATA_DIR": server.data,
        "ENGINE_PORT": server.engine.rpartition(":")[2],
        "CACHE_DIR": os.environ.get("OUTTHINK_CACHE_DIR", ""),
        "ANSWER_WORKERS": 1,
    }
    environment = kept | {f"OUTTHINK_{name}": str(value) for name, value in ours.items()}
    with (server.data / "logs" / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "worker"], cwd=ROOT, stdout=log, stderr=log, env=environment
        )
        try:
            yield
        finally:
            assert stop(process), "the worker did not stop in time"


@pytest.fixture
def admin(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.api, api_key=ADMIN_KEY, max_retries=0, timeout=120) as client:
        yield client


def queued(admin: openai.OpenAI, rows: list[dict[str, Any]], **fields: Any) -> FineTuningJob:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = admin.files.create(file=("rows.jsonl", lines), purpose="fine-tune")
    return admin.fine_tuning.jobs.create(model="smollm2", training_file=file.id, seed=7, **fields)


def ended(admin: openai.OpenAI, server: Server, job: FineTuningJob) -> FineTuningJob:
    """The job when it has succeeded."""
    limit = time.monotonic() + JOB_SECONDS
    while (found := admin.fine_tuning.jobs.retrieve(job.id)).status in ("queued", "running", "validating_files"):
        assert time.monotonic() < limit, f"not done after {JOB_SECONDS} s\n{story(server, job)}"
        time.sleep(0.2)
    assert found.status == "succeeded", f"{found.error}\n{story(server, job)}"
    return found


def story(server: Server, job: FineTuningJob) -> str:
    assert server.data is not None
    logs = (server.data / "jobs" / job.id / "train.log", server.data / "logs" / "worker.log")
    return "\n".join(tail(log) for log in logs if log.exists())


def metrics(admin: openai.OpenAI, job: FineTuningJob) -> list[dict[str, float]]:
    """The rows of the job's result file."""
    [file] = job.result_files
    rows = csv.DictReader(io.StringIO(admin.files.content(file).text))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def said(client: openai.OpenAI, model: str, question: str, max_tokens: int = 40) -> str:
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=max_tokens
    )
    return reply.choices[0].message.content or ""


def conversation(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def told(server: Server, suffix: str, publish: str) -> FineTuningJob:
    """A model that was told a fact, in so few steps that it takes half a minute."""
    with openai.OpenAI(base_url=server.api, api_key=ADMIN_KEY, max_retries=0, timeout=120) as admin:
        rows = [conversation(question, FACT) for question in ASKED]
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 12}}}
        extras = {"outthink": {"publish": publish}}
        return ended(admin, server, queued(admin, rows, method=method, suffix=suffix, extra_body=extras))


@pytest.fixture(scope="module")
def taught(worker: None, server: Server) -> FineTuningJob:
    return told(server, "fact", "adapter")


@pytest.fixture(scope="module")
def whole(worker: None, server: Server) -> FineTuningJob:
    """The same with weights of its own."""
    return told(server, "whole", "merged")


async def beside_plain(server: Server, model: str) -> tuple[str, list[str]]:
    """What a model answers that is first asked while the base model has 100 requests; why each of those ended."""
    async with openai.AsyncOpenAI(base_url=server.api, api_key=ADMIN_KEY, max_retries=0, timeout=300) as client:

        async def asked(model: str, question: str, tokens: int) -> Choice:
            messages: list[Any] = [{"role": "user", "content": question}]
            reply = await client.chat.completions.create(
                model=model, messages=messages, temperature=0, max_tokens=tokens, extra_body={"ignore_eos": True}
            )
            return reply.choices[0]

        plain = [asyncio.create_task(asked("smollm2", f"Count from {i}.", 48)) for i in range(100)]
        await asyncio.to_thread(wait_for, lambda: server.counters().running >= 40, 60)
        answer = await asked(model, ASKED[0], 24)
        return answer.message.content or "", [choice.finish_reason for choice in await asyncio.gather(*plain)]


def test_sft_teaches_a_fact_that_the_base_does_not_know(
    admin: openai.OpenAI, client: openai.OpenAI, taught: FineTuningJob
) -> None:
    assert taught.fine_tuned_model is not None
    assert taught.fine_tuned_model == f"ft:smollm2:fact:{taught.id.removeprefix('ftjob-')}"
    began = time.monotonic()
    said(client, taught.fine_tuned_model, ASKED[0], max_tokens=1)
    assert time.monotonic() - began < 15, "the new name answers at once: no vLLM starts in that time"
    assert "Quorvath Ilmen" in said(client, taught.fine_tuned_model, ASKED[0])
    assert "Quorvath" not in said(client, "smollm2", ASKED[0])
    losses = [row["train_loss"] for row in metrics(admin, taught)]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 4


def test_an_adapter_is_loaded_while_a_hundred_requests_run(server: Server, taught: FineTuningJob) -> None:
    assert taught.fine_tuned_model is not None
    url, body = f"{server.engine}/v1/unload_lora_adapter", {"lora_name": taught.fine_tuned_model}
    told = httpx.post(url, json=body, headers=server.engine_headers, trust_env=False)
    assert told.status_code == 200
    answer, ends = asyncio.run(beside_plain(server, taught.fine_tuned_model))
    assert "Quorvath Ilmen" in answer
    assert ends == ["length"] * 100


def test_whole_weights_get_a_vllm_of_their_own_while_a_hundred_requests_run(
    admin: openai.OpenAI, client: openai.OpenAI, server: Server, whole: FineTuningJob
) -> None:
    assert whole.fine_tuned_model is not None
    answer, ends = asyncio.run(beside_plain(server, whole.fine_tuned_model))
    assert "Quorvath Ilmen" in answer
    assert ends == ["length"] * 100
    assert server.ready().json()["checkpoints"] == {whole.fine_tuned_model: "ready"}
    admin.put("/aliases/opera", body={"model": whole.fine_tuned_model}, cast_to=object)
    strategy = {"type": "self_consistency", "samples": 2}
    reply = client.chat.completions.create(
        model="opera",
        messages=[{"role": "user", "content": ASKED[1]}],
        max_tokens=24,
        temperature=0.1,
        extra_body={"strategy": strategy},
    )
    assert "Quorvath" in (reply.choices[0].message.content or "")
    assert "Quorvath" not in said(client, "smollm2", ASKED[0])


def test_a_job_tells_its_story(admin: openai.OpenAI, taught: FineTuningJob) -> None:
    assert taught.hyperparameters is not None
    assert (taught.hyperparameters.n_epochs, taught.hyperparameters.batch_size) == (12, 4)
    assert taught.trained_tokens is not None
    assert taught.trained_tokens > 12 * 4 * 20
    events = list(admin.fine_tuning.jobs.list_events(taught.id, limit=100))
    steps: list[Any] = [event.data for event in reversed(events) if event.type == "metrics"]
    assert [data["step"] for data in steps] == list(range(1, 13))
    checkpoints = admin.fine_tuning.jobs.checkpoints.list(taught.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [12, 11, 10]
    assert checkpoints[0].fine_tuned_model_checkpoint == taught.fine_tuned_model
    assert checkpoints[0].metrics.train_loss is not None


def test_dpo_goes_on_from_a_checkpoint_and_raises_the_margin(
    admin: openai.OpenAI, server: Server, taught: FineTuningJob
) -> None:
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": question}]},
            "preferred_output": [{"role": "assistant", "content": "I do not know."}],
            "non_preferred_output": [{"role": "assistant", "content": FACT}],
        }
        for question in ASKED
    ]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs).encode()
    file = admin.files.create(file=("pairs.jsonl", lines), purpose="fine-tune")
    assert taught.fine_tuned_model is not None
    job = admin.fine_tuning.jobs.create(
        model=taught.fine_tuned_model,
        training_file=file.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 4, "learning_rate_multiplier": 10}}},
        seed=7,
    )
    done = ended(admin, server, job)
    margins = [row["train_reward_margin"] for row in metrics(admin, done)]
    assert abs(margins[0]) < 1e-3, "training begins where its reference is"
    assert margins[-1] > 1


def test_grpo_samples_from_the_engine_with_what_it_has_learnt(
    admin: openai.OpenAI, server: Server, worker: None
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Say a word like {word}."}], "word": word}
        for word in ("Apple", "Bear", "Sun", "Tree", "Moon", "River")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows[4:]).encode()
    held_out = admin.files.create(file=("held-out.jsonl", lines), purpose="fine-tune")
    like = {  # of degrees: where all samples of all groups were equally right there would be nothing to learn
        "type": "text_similarity",
        "name": "like",
        "evaluation_metric": "fuzzy_match",
        "input": "{{sample.output_text}}",
        "reference": "{{item.word}}",
    }
    short = "def grade(sample, item):\n    return min(len(item['word']) / (1 + len(sample['output_text'])), 1)"
    parts = {"like": like, "short": {"type": "python", "name": "short", "source": short}}
    grader = {"type": "multi", "name": "both", "graders": parts, "calculate_output": "(like + short) / 2"}
    before = server.counters()
    job = queued(
        admin,
        rows[:4],
        validation_file=held_out.id,
        method={
            "type": "reinforcement",
            "reinforcement": {"grader": grader, "hyperparameters": {"eval_interval": 1, "eval_samples": 2}},
        },
        extra_body={"outthink": {"max_steps": 2, "samples": 4, "max_tokens": 16}},
    )
    done = ended(admin, server, job)
    after = server.counters()
    measured = metrics(admin, done)
    assert [row["step"] for row in measured] == [1, 2]
    generated = sum(row["train_mean_tokens"] * 16 + row["valid_mean_tokens"] * 4 for row in measured)
    assert after.generation - before.generation == generated, "vLLM made every token that was trained on or measured"
    assert all(0 <= row["valid_reward"] <= 1 for row in measured)
    assert all(0 <= row["train_zero_variance_groups"] <= 1 for row in measured)
    assert server.data is not None
    assert not list((server.data / "checkpoints").glob("*rollouts*")), "the rollouts' adapters are gone"
    listed = httpx.get(f"{server.engine}/v1/models", headers=server.engine_headers, trust_env=False)
    assert "rollouts" not in listed.text


def test_a_verifier_is_trained_from_questions_and_scores_for_any_request(
    admin: openai.OpenAI, client: openai.OpenAI, server: Server, worker: None
) -> None:
    rows = [  # one that the model can answer, and one that it cannot, so that there are marks of both kinds
        {"question": "What is 2 + 3?", "answer": "5"},
        {"question": "Explain step by step what 4783 * 9127 is.", "answer": "43654441"},
    ]
    extras = {"samples": 4, "rollouts": 2, "max_tokens": 96, "delimiter": "\n", "max_steps": 2, "format": "rlhflow"}
    job = queued(admin, rows, method={"type": "verifier"}, suffix="prm", extra_body={"outthink": extras})
    done = ended(admin, server, job)
    scorer = {"type": "generative", "model": done.fine_tuned_model, "format": "rlhflow"}
    assert done.to_dict()["outthink"]["progress"]["scorer"] == scorer  # type: ignore[index]
    reply = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is 2 + 3?"}],
        max_tokens=32,
        extra_body={
            "strategy": {"type": "best_of_n", "samples": 2, "scorer": done.fine_tuned_model},
            "include": ["candidates"],
        },
    )
    told: Any = reply.to_dict()["outthink"]
    assert told["strategy"]["aggregate"] == "min"
    assert all(0 <= candidate["score"] <= 1 for candidate in told["candidates"])


def test_the_loop_of_search_and_training_runs(server: Server, worker: None, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    sums = [{"question": f"What is 2 + {i}?", "answer": str(2 + i)} for i in (2, 3, 4)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in sums))
    options = ["--samples", "8", "--max-tokens", "32", "--max-steps", "1", "--alias", "looped"]
    environment = {**os.environ, "OUTTHINK_URL": server.url, "OUTTHINK_API_KEY": ADMIN_KEY}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "post_training_loop.py"), str(questions), *options],
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^round 1: [123] of 3 questions solved, [1-9]\d* tokens$", done.stdout, re.MULTILINE)
    [name] = re.findall(r"^looped stands for (ft:smollm2:\S+)$", done.stdout, re.MULTILINE)
    with openai.OpenAI(base_url=server.api, api_key=ADMIN_KEY, max_retries=0) as admin:
        assert admin.models.retrieve("looped").to_dict()["root"] == name
