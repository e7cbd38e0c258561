"""A new method of training is one record, one line and one function: from a request to what the worker made of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from threading import Event

import openai
import pytest

from service.jobs.methods import METHODS
from service.settings import Settings
from tests.examples_of.counting import COUNTING
from tests.service.fine_tuning import queued, service
from tests.training import tiny
from training import child
from training.task import Facts, Report, Task

pytestmark = pytest.mark.training


async def test_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METHODS, COUNTING.name, COUNTING)
    monkeypatch.setitem(sys.modules, "vllm", sys.modules.get("vllm"))  # the child hides it from TRL
    await asyncio.to_thread(tiny.make, tmp_path / "tiny")
    settings = Settings(data_dir=tmp_path / "data", model=str(tmp_path / "tiny"), model_name="smollm2")
    method = {"type": "counting", "counting": {"hyperparameters": {"beta": 1.5}}}
    async with service(settings=settings) as (client, context):
        for wrong, message in (
            (
                {"type": "counting", "counting": {"hyperparameters": {"beta": 3}}},
                "method.counting.hyperparameters.beta",
            ),
            ({"type": "counting", "dpo": {}}, "method.dpo"),
            ({"type": "chanting"}, "there is no method 'chanting'; there are supervised, dpo, .*, counting"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                await queued(client, {"word": "a"}, method=wrong)
        with pytest.raises(openai.BadRequestError, match="training_file: line 2: word"):
            await queued(client, {"word": "a"}, {"word": ""}, method=method)
        job_id = await queued(client, {"word": "a"}, {"word": "b"}, method=method)
        shown = (await client.fine_tuning.jobs.retrieve(job_id)).model_dump()
        assert shown["method"]["counting"] == {"hyperparameters": {**AUTO, "beta": 1.5}}
        job = context.store.job(job_id)
        task = Task(context.settings, job, context.store.path(job.spec["training_file"]))
        reports: list[Report] = []
        done = await asyncio.to_thread(child.finish, task, reports.append, Event())
    assert done.result == {"fine_tuned_model": task.name(), "trained_tokens": 300}
    [facts] = [report.facts for report in reports if isinstance(report, Facts)]
    assert (facts["hyperparameters"]["n_epochs"], facts["hyperparameters"]["beta"]) == (25, 1.5)


AUTO = dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
