"""OpenAI's fine-tuning API through the official SDK, unmodified. The worker's part is played by the store's verbs."""

from __future__ import annotations

from typing import Any, cast, get_args

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel

from service.engines.scripted import Reply, ScriptedEngine
from service.jobs.methods.base import Extras, Hyperparameters
from service.jobs.methods.dpo import DpoExtras, DpoHyperparameters
from service.jobs.methods.reinforcement import ReinforcementExtras, ReinforcementHyperparameters
from service.jobs.methods.verifier import VerifierExtras
from service.jobs.training import TrainingSpec
from tests.conftest import outthink
from tests.service.fine_tuning import (
    ASSISTANT,
    DPO,
    MATH,
    QUESTION,
    RFT,
    SFT,
    USER,
    lines,
    published,
    queued,
    service,
    uploaded,
)

REINFORCEMENT: dict[str, Any] = {"type": "reinforcement", "reinforcement": {"grader": MATH}}
LEASE = 30.0


def reinforced(**options: Any) -> dict[str, Any]:
    """The fields of a job of reinforcement with such options."""
    return {"method": {"type": "reinforcement", "reinforcement": {"grader": MATH} | options}}


def complete(found: BaseModel) -> bool:
    """Whether every field that the SDK knows was sent: it raises AttributeError for one that was not."""
    return type(found).model_fields.keys() <= found.model_fields_set


async def test_a_job_has_every_field_from_the_beginning_to_the_end() -> None:
    async with service() as (client, context):
        file = await uploaded(client, SFT, SFT)
        job = await client.fine_tuning.jobs.create(
            model="smollm2",
            training_file=file,
            validation_file=file,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}},
            suffix="my-model",
            seed=7,
            metadata={"run": "a"},
        )
        assert complete(job)
        assert (job.status, job.model, job.seed, job.metadata) == ("queued", "smollm2", 7, {"run": "a"})
        assert (job.training_file, job.validation_file, job.result_files) == (file, file, [])
        assert (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens) == (None, None, None, None)
        assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == (3, "auto")
        assert job.method is not None
        assert job.method.supervised is not None
        assert job.method.supervised.hyperparameters is not None
        assert job.method.supervised.hyperparameters.batch_size == "auto"

        store = context.store
        taken = store.take_job("w", LEASE)
        assert taken is not None
        assert TrainingSpec.of(taken.spec).suffix == "my-model"
        store.progress(job.id, "w", step=1, hyperparameters={"batch_size": 4}, eta_seconds=60)
        running = await client.fine_tuning.jobs.retrieve(job.id)
        assert complete(running)
        assert (running.status, running.hyperparameters.batch_size) == ("running", 4)
        assert running.estimated_finish is not None
        assert running.estimated_finish >= running.created_at + 60
        extras: Any = running.model_extra
        assert extras["outthink"]["progress"]["step"] == 1

        table = store.write_file("fine-tune-results", "step_metrics.csv", b"step,train_loss\n1,0.5\n")
        result = {"fine_tuned_model": "ft:smollm2:my-model:x", "trained_tokens": 9, "result_files": [table.id]}
        store.finish(job.id, "w", "succeeded", result=result)
        done = await client.fine_tuning.jobs.retrieve(job.id)
        assert complete(done)
        assert (done.status, done.trained_tokens, done.fine_tuned_model) == ("succeeded", 9, "ft:smollm2:my-model:x")
        assert (await client.files.content(done.result_files[0])).content.startswith(b"step,")
        assert done.estimated_finish is None


async def test_a_failed_job_says_why() -> None:
    async with service() as (client, context):
        job_id = await queued(client)
        context.store.take_job("w", LEASE)
        context.store.finish(
            job_id, "w", "failed", error={"code": "invalid_file", "message": "gone", "param": "training_file"}
        )
        job = await client.fine_tuning.jobs.retrieve(job_id)
        assert job.error is not None
        assert (job.status, job.error.code, job.error.param) == ("failed", "invalid_file", "training_file")


async def test_jobs_events_and_checkpoints_are_read_page_by_page() -> None:
    async with service() as (client, context):
        made = [await queued(client, metadata={"n": str(i)}) for i in range(5)]
        assert [job.id async for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
        assert [job.id async for job in client.fine_tuning.jobs.list(metadata={"n": "3"})] == [made[3]]
        for odd in ({'metadata[a"b]': "x"}, {"metadata": "null"}):
            with pytest.raises(openai.BadRequestError, match="metadata"):
                await client.get("/fine_tuning/jobs", options={"params": odd}, cast_to=object)
        job = context.store.job(made[0])
        for step in range(3):
            context.store.note(job.id, "info", f"Step {step}", {"step": step, "train_loss": 0.1})
            published(context, job, f"ft:smollm2:x:{job.short}:ckpt-step-{step}", step)
        events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=2)]
        assert [event.message for event in events] == [
            "Step 2",
            "Step 1",
            "Step 0",
            f"Created fine-tuning job: {job.id}",
        ]
        assert all(isinstance(event, FineTuningJobEvent) and complete(event) for event in events)
        assert [event.type for event in events] == ["metrics", "metrics", "metrics", "message"]
        checkpoints = [found async for found in client.fine_tuning.jobs.checkpoints.list(job.id, limit=2)]
        assert [found.step_number for found in checkpoints] == [2, 1, 0]
        assert all(isinstance(found, FineTuningJobCheckpoint) and complete(found) for found in checkpoints)
        assert complete(checkpoints[0].metrics)
        assert checkpoints[0].metrics.train_loss == 0.5
        for lost in (client.fine_tuning.jobs.list_events, client.fine_tuning.jobs.checkpoints.list):
            with pytest.raises(openai.NotFoundError):
                await lost("ftjob-nope")


async def test_jobs_survive_a_restart() -> None:
    async with service() as (client, _):
        job_id = await queued(client, suffix="kept")
        before = await client.fine_tuning.jobs.retrieve(job_id)
    async with service() as (client, _):
        assert await client.fine_tuning.jobs.retrieve(job_id) == before


async def test_cancel_pause_and_resume() -> None:
    async with service() as (client, context):
        jobs, job_id = client.fine_tuning.jobs, await queued(client)
        paused = await jobs.pause(job_id)
        extras: Any = paused.model_extra
        assert (paused.status, extras["outthink"]["paused"]) == ("queued", True)
        assert context.store.take_job("w", LEASE) is None
        assert (await jobs.resume(job_id)).status == "queued"
        assert context.store.take_job("w", LEASE) is not None
        assert (await jobs.cancel(job_id)).status == "running"
        assert context.store.renew(job_id, "w", LEASE) == "cancel"
        context.store.finish(job_id, "w", "cancelled")
        cancelled = await jobs.retrieve(job_id)
        assert (cancelled.status, cancelled.finished_at is not None) == ("cancelled", True)
        for change in (jobs.cancel, jobs.pause, jobs.resume):
            with pytest.raises(openai.BadRequestError, match="cancelled"):
                await change(job_id)
        waiting = await queued(client)
        assert (await jobs.cancel(waiting)).status == "cancelled"
        assert get_args(FineTuningJob.model_fields["status"].annotation) == (
            "validating_files",
            "queued",
            "running",
            "succeeded",
            "failed",
            "cancelled",
        )


async def test_every_hyperparameter_reaches_the_worker() -> None:
    """The bodies name every field there is, so that none can be taken and forgotten."""
    common = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    reinforcement = common | {
        "compute_multiplier": 2.0,
        "eval_interval": 3,
        "eval_samples": 2,
        "reasoning_effort": "default",
    }
    lora = {"weights": "lora", "rank": 8, "alpha": 16, "publish": "merged", "max_steps": 5, "learning_rate": 0.001}
    lora |= {"max_length": 512, "save_steps": 2}
    sampling = lora | {"samples": 8, "max_tokens": 64, "temperature": 0.9}
    cases: list[tuple[str, dict[str, Any], type[Hyperparameters], dict[str, Any], type[Extras], dict[str, Any]]] = [
        ("supervised", common, Hyperparameters, lora, Extras, SFT),
        ("dpo", common | {"beta": 0.2}, DpoHyperparameters, lora | {"rpo_alpha": 1.0}, DpoExtras, DPO),
        (
            "reinforcement",
            reinforcement,
            ReinforcementHyperparameters,
            sampling | {"publish_every": 2, "kl": 0.01},
            ReinforcementExtras,
            RFT,
        ),
        (
            "verifier",
            common,
            Hyperparameters,
            sampling | {"rollouts": 4, "delimiter": "\n", "estimation": "soft", "format": "yes_no"},
            VerifierExtras,
            QUESTION,
        ),
    ]
    async with service() as (client, context):
        for kind, hyperparameters, model, extras, extras_model, row in cases:
            assert hyperparameters.keys() == model.model_fields.keys()
            assert extras.keys() == extras_model.model_fields.keys()
            options = {"hyperparameters": hyperparameters} | ({"grader": MATH} if kind == "reinforcement" else {})
            method: Any = {"type": kind, kind: options}
            held_out = await uploaded(client, row)
            more = {"outthink": extras}
            job_id = await queued(client, row, method=method, validation_file=held_out, extra_body=more)
            spec = TrainingSpec.of(context.store.job(job_id).spec)
            assert spec.hyperparameters.model_dump() == hyperparameters
            assert spec.outthink.model_dump() == extras
            shown: Any = await client.get(f"/fine_tuning/jobs/{job_id}", cast_to=object)
            assert shown["method"][kind]["hyperparameters"] == hyperparameters


async def test_the_format_of_answers_reaches_the_worker() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
    async with service() as (client, context):
        for given in (schema, {"type": "json_object"}, {"type": "text"}):
            job_id = await queued(client, RFT, **reinforced(response_format=given))
            assert TrainingSpec.of(context.store.job(job_id).spec).response_format == given


async def test_the_deprecated_hyperparameters_are_supervised() -> None:
    async with service() as (client, context):
        job_id = await queued(client, hyperparameters={"n_epochs": 2})
        spec = TrainingSpec.of(context.store.job(job_id).spec)
        assert (spec.method, spec.hyperparameters.n_epochs, spec.suffix) == ("supervised", 2, None)
        assert (await client.fine_tuning.jobs.retrieve(job_id)).to_dict()["user_provided_suffix"] is None


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"surprise": 1}, "surprise"),
    ({"model": "nope"}, "model"),
    ({"model": "smollm2@sc"}, "model"),
    ({"training_file": "file-nope"}, "training_file"),
    ({"training_file": "../outthink.db"}, "training_file"),
    ({"validation_file": "file-nope"}, "validation_file"),
    ({"suffix": "Upper"}, "suffix"),
    ({"suffix": "a/../b"}, "suffix"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"seed": -1}, "seed"),
    ({"seed": "7"}, "seed"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": "x\0"}}, "metadata.a"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
    ({"method": {"type": "ppo"}}, "method.type"),
    ({"method": {"type": ["dpo"]}}, "method.type"),
    ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
    ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
    ({"method": {"type": "reinforcement", "reinforcement": {}}}, "method.reinforcement.grader"),
    (
        {"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "label_model"}}}},
        "method.reinforcement.grader.type",
    ),
    (
        {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": "0.1"}}}},
        "method.dpo.hyperparameters.beta",
    ),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}},
        "method.supervised.hyperparameters.beta",
    ),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ({"outthink": {"lora": True}}, "outthink.lora"),
    ({"outthink": {"kl": 0.1}}, "outthink.kl"),
    ({"outthink": {"rank": 0}}, "outthink.rank"),
    ({"outthink": {"rpo_alpha": 1.0}}, "outthink.rpo_alpha"),  # of DPO alone
    ({"method": {"type": "dpo"}, "outthink": {"rpo_alpha": -0.1}}, "outthink.rpo_alpha"),
    ({"method": {"type": "dpo"}, "outthink": {"rpo_alpha": 10.5}}, "outthink.rpo_alpha"),
    ({"outthink": {"weights": "full"}}, "outthink"),
    ({"method": {"type": "verifier"}, "outthink": {"format": "rlhflow", "estimation": "soft"}}, "outthink"),
    (
        {"method": REINFORCEMENT, "outthink": {"weights": "full", "publish": "merged"}},
        "outthink.weights",
    ),
    (reinforced(hyperparameters={"eval_interval": 2}), "method.reinforcement.hyperparameters.eval_interval"),
    (reinforced(hyperparameters={"eval_samples": 2}), "method.reinforcement.hyperparameters.eval_samples"),
    (reinforced(response_format={"type": "xml"}), "method.reinforcement.response_format.type"),
    (reinforced(response_format={"type": "json_schema"}), "method.reinforcement.response_format"),
    (
        reinforced(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
        "method.reinforcement.response_format.json_schema.schema",
    ),
]


async def test_mistakes_in_a_job_are_named_by_their_path() -> None:
    async with outthink(ScriptedEngine(lambda prompt, branch: "")) as client:
        files = {"file": ("x", lines(SFT))}
        file = (await client.post("/v1/files", files=files, data={"purpose": "fine-tune"})).json()["id"]
        for change, param in MISTAKES:
            body = {"model": "smollm2", "training_file": file} | change
            refused = await client.post("/v1/fine_tuning/jobs", json=body)
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (404 if body["model"] == "nope" else 400, param), change
            assert param in error["message"]
        assert (await client.get("/v1/fine_tuning/jobs")).json()["data"] == []


async def test_a_mistake_says_what_is_allowed() -> None:
    async with outthink() as client:
        body = {"model": "smollm2", "training_file": "x", "hyperparameters": {"n_epochs": 99}}
        refused: httpx.Response = await client.post("/v1/fine_tuning/jobs", json=body)
    message = refused.json()["error"]["message"]
    assert (
        message
        == "hyperparameters.n_epochs: Input should be 'auto', or Input should be less than or equal to 50, not 99"
    )


BAD_LINES: list[tuple[str, Any, str]] = [
    ("supervised", "{", "JSON"),
    ("supervised", "", "is empty"),
    ("supervised", "[1]", "valid dictionary"),
    ("supervised", {"messages": []}, "messages"),
    ("supervised", {"messages": [USER]}, "no message of the assistant"),
    ("supervised", {"messages": [{**ASSISTANT, "weight": 0}]}, "no message of the assistant"),
    ("supervised", {"messages": [USER, {"role": "assistant"}]}, r"messages\[1\]: content is missing"),
    ("supervised", {"messages": [{"role": "robot", "content": "x"}, ASSISTANT]}, r"messages\[0\].role"),
    ("supervised", {"messages": [USER, ASSISTANT], "tool": []}, "tool"),
    ("supervised", {"prompt": "a", "completion": "b"}, "messages"),
    ("dpo", SFT, "input"),
    ("dpo", {**DPO, "preferred_output": []}, "preferred_output"),
    ("dpo", {**DPO, "non_preferred_output": [USER]}, "must end with the assistant"),
    ("reinforcement", {"messages": [USER, ASSISTANT], "answer": "1"}, "is to be sampled"),
    ("reinforcement", {"messages": [USER]}, "there is no item.answer"),
    ("verifier", {"question": "?"}, "answer"),
    ("verifier", {"answer": "1"}, "needs a question"),
]


async def test_a_bad_line_is_refused_with_its_number() -> None:
    rows: dict[str, dict[str, Any]] = {"supervised": SFT, "dpo": DPO, "reinforcement": RFT, "verifier": QUESTION}
    async with service() as (client, context):
        for method, row, problem in BAD_LINES:
            good = rows[method]
            bad = await uploaded(client, good, good, row)
            chosen: Any = REINFORCEMENT if method == "reinforcement" else {"type": method}
            for param in ("training_file", "validation_file"):
                files: Any = {"training_file": await uploaded(client, good), param: bad}
                with pytest.raises(openai.BadRequestError, match=problem) as refused:
                    await client.fine_tuning.jobs.create(model="smollm2", method=chosen, **files)
                assert (refused.value.param, refused.value.code) == (param, "invalid_file")
                assert f"{param}: line 3: " in refused.value.message
        assert not context.store.jobs("fine_tuning").data


async def test_openais_own_formats_are_read() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    conversation = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
        {"role": "tool", "content": "42", "tool_call_id": "c"},
        {**ASSISTANT, "weight": 1},
    ]
    async with service() as (client, _):
        assert await queued(client, {"messages": conversation, "tools": [tool], "parallel_tool_calls": False})
        dpo = {**DPO, "input": {"messages": [USER], "tools": [tool], "parallel_tool_calls": True}}
        assert await queued(client, dpo, method={"type": "dpo"})
        rft = {"messages": [USER], "tools": [tool], "answer": "42", "reference": {"steps": [1, 2]}}
        assert await queued(client, rft, method=REINFORCEMENT)
        calls = MATH | {"input": "{{sample.output_tools[0].function.arguments}}"}
        assert await queued(client, RFT, rft, **reinforced(grader=calls))
        with pytest.raises(openai.BadRequestError, match="no row has tools") as refused:
            await queued(client, RFT, **reinforced(grader=calls))
        assert refused.value.param == "method.reinforcement.grader"


async def test_a_grader_is_tried_out() -> None:
    """`score_model` asks a served model: here the engine repeats the last word that it was sent."""
    engine = ScriptedEngine(lambda prompt, branch: Reply(f"I say {prompt.split()[-1]}"))
    judge: Any = {
        "type": "score_model",
        "name": "judge",
        "model": "smollm2",
        "input": [{"role": "user", "content": "Grade: {{sample.output_text}}"}],
        "sampling_params": {"temperature": 0, "max_completions_tokens": 20, "seed": 1},
    }
    exact: Any = {
        "type": "string_check",
        "name": "exact",
        "operation": "eq",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answers[0] }}",
    }
    multi: Any = {"type": "multi", "name": "m", "graders": {"a": exact, "b": judge}, "calculate_output": "(a + b) / 2"}
    async with service(engine) as (client, _):
        graders = client.fine_tuning.alpha.graders
        ran = await graders.run(grader=multi, model_sample="0.5", item={"answers": ["0.5"]})
        assert (ran.reward, ran.sub_rewards, ran.metadata.type) == (0.75, {"a": 1, "b": 0.5}, "multi")
        assert ran.api_model_grader_token_usage_per_model == {"smollm2": 3}
        assert complete(ran.metadata)
        assert complete(ran.metadata.errors)
        lost = await graders.run(grader=exact, model_sample="0.5", item={})
        assert (lost.reward, lost.metadata.errors.invalid_variable_error) == (0, True)
        unread = await graders.run(grader=judge, model_sample="splendid")
        assert (unread.reward, unread.metadata.errors.api_model_grader_parse_error) == (0, True)
        validated = await graders.validate(grader=multi)
        assert validated.grader is not None
        assert validated.grader.name == "m"
        with pytest.raises(openai.NotFoundError, match="nope"):
            await graders.validate(grader=judge | {"model": "nope"})


HALF = "def grade(sample, item): return 0.5 if sample['output_text'] == item['a'] else 1 / 0"


async def test_a_python_grader_is_tried_out() -> None:
    half: Any = {"type": "python", "name": "p", "source": HALF, "image_tag": "2025-05-08"}
    multi: Any = {"type": "multi", "name": "m", "graders": {"a": half}, "calculate_output": "2 * a"}
    async with service() as (client, _):
        graders = client.fine_tuning.alpha.graders
        assert (await graders.run(grader=half, model_sample="x", item={"a": "x"})).reward == 0.5
        assert (await graders.run(grader=multi, model_sample="x", item={"a": "x"})).reward == 1
        for grader in (half, multi):
            failed = await graders.run(grader=grader, model_sample="x", item={"a": "y"})
            assert (failed.reward, failed.metadata.errors.python_grader_runtime_error) == (0, True)
            assert failed.metadata.errors.python_grader_server_error is False
            assert "division by zero" in (failed.metadata.errors.python_grader_runtime_error_details or "")
            assert complete(failed.metadata.errors)


@pytest.mark.parametrize(
    ("grader", "param", "says"),
    [
        ({"type": "python", "source": "x = 1"}, "grader.source", "'grade' is not defined"),
        ({"type": "python", "source": "grade = 3"}, "grader.source", "no function"),
        ({"type": "python", "source": "def grade(sample, item) return 1"}, "grader.source", "Expected"),
        ({"type": "python", "source": "import numpy\ndef grade(s, i): return 1"}, "grader.source", "no module 'numpy'"),
        ({"type": "python", "source": "def grade(s, i): yield 1"}, "grader.source", "yield"),
        ({"type": "python", "source": "while True: pass"}, "grader.source", "time limit"),
        ({"type": "regex", "pattern": "("}, "grader.pattern", "no regular expression"),
        ({"type": "json_schema", "schema": {"type": 3}}, "grader.schema", "no JSON schema"),
        ({"type": "json_schema", "schema": {"$ref": "http://x.test/"}}, "grader.schema", "only references"),
    ],
)
async def test_a_grader_that_cannot_be_used_is_refused_with_its_path(
    grader: dict[str, Any], param: str, says: str
) -> None:
    named = grader | {"name": "g"}
    multi: Any = {"type": "multi", "name": "m", "graders": {"a": named}, "calculate_output": "a"}
    async with service() as (client, _):
        for body, path in ((named, param), (multi, param.replace("grader.", "grader.graders.a."))):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.fine_tuning.alpha.graders.validate(grader=cast(Any, body))
            assert refused.value.param == path
            assert says in refused.value.message


async def test_a_schema_is_spelled_as_it_was_given() -> None:
    grader: Any = {"type": "json_schema", "name": "g", "schema": {"type": "object"}}
    async with service() as (client, _):
        raw = await client.fine_tuning.alpha.graders.with_raw_response.validate(grader=grader)
        validated = raw.http_response.json()["grader"]
        assert validated["schema"] == {"type": "object"}
        again = await client.fine_tuning.alpha.graders.run(grader=validated, model_sample="{}")
        assert again.reward == 1


async def test_a_grader_names_its_judge_by_what_an_alias_stands_for_now() -> None:
    judge: Any = {"type": "score_model", "name": "j", "model": "prod", "input": [{"role": "user", "content": "?"}]}
    async with service() as (client, context):
        await client.put("/aliases/prod", body={"model": "smollm2"}, cast_to=object)
        method: Any = {"type": "reinforcement", "reinforcement": {"grader": judge}}
        spec = TrainingSpec.of(context.store.job(await queued(client, RFT, method=method)).spec)
        assert spec.grader is not None
        assert spec.grader["model"] == "smollm2"


async def test_what_is_made_of_weights_of_their_own_has_such_too() -> None:
    async with service() as (client, context):
        job = context.store.create_job("fine_tuning", "smollm2", {})
        name = published(context, job, "ft:smollm2:x:0123", form="merged").name
        file = await uploaded(client, SFT)
        with pytest.raises(openai.BadRequestError, match=r'outthink\.publish.*"merged"'):
            await client.fine_tuning.jobs.create(model=name, training_file=file)
        reinforcement: Any = {"type": "reinforcement", "reinforcement": {"grader": MATH | {"reference": "42"}}}
        with pytest.raises(openai.BadRequestError, match=r"model:.*samples from adapters"):
            await client.fine_tuning.jobs.create(model=name, training_file=file, method=reinforcement)
        whole = {"outthink": {"publish": "merged"}}
        verifier: Any = {"type": "verifier"}
        with pytest.raises(openai.BadRequestError, match=r"weights of its own.*OUTTHINK_FULL_MODELS"):
            await client.fine_tuning.jobs.create(model=name, training_file=file, method=verifier, extra_body=whole)
        adapter = published(context, job, "ft:smollm2:x:0124").name
        full = {"outthink": {"publish": "merged", "weights": "full"}}
        with pytest.raises(openai.BadRequestError, match=r"outthink\.weights: .*0124 is an adapter"):
            await client.fine_tuning.jobs.create(model=adapter, training_file=file, extra_body=full)
        assert (await client.fine_tuning.jobs.create(model=name, training_file=file, extra_body=full)).model == name
        job_made = await client.fine_tuning.jobs.create(model=name, training_file=file, extra_body=whole)
        assert job_made.model == name
