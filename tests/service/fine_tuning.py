"""What the tests of files, jobs and checkpoints share: the SDK over the service, files of rows, a worker's verbs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import openai
from fastapi import FastAPI

from service.app import create_app
from service.context import Context, EngineFactory
from service.engines.scripted import ScriptedEngine
from service.jobs import Checkpoint, Job
from service.settings import Settings
from tests.conftest import serving, shared_workers

USER = {"role": "user", "content": "What is 6 * 7?"}
ASSISTANT = {"role": "assistant", "content": "42"}
SFT = {"messages": [USER, ASSISTANT]}
DPO = {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [ASSISTANT]}
RFT = {"messages": [USER], "answer": "42"}
QUESTION = {"question": "What is 6 * 7?", "answer": "42"}
MATH = {"type": "math", "name": "right"}


def lines(*rows: Mapping[str, Any] | str) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def context_of(app: FastAPI) -> Context:
    context: Context = app.state.context
    return context


@asynccontextmanager
async def service(
    engine: EngineFactory | None = None, settings: Settings | None = None, key: str = "none"
) -> AsyncIterator[tuple[openai.AsyncOpenAI, Context]]:
    """The SDK talking to the service, and the service's inside."""
    scripted = engine or ScriptedEngine(lambda prompt, branch: "\\boxed{42}")
    app = create_app(settings or Settings(), engine=scripted, workers=shared_workers(), manage=False)
    async with serving(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client, context_of(app)


async def uploaded(client: openai.AsyncOpenAI, *rows: Mapping[str, Any] | str) -> str:
    """The id of a file of such lines."""
    file = await client.files.create(file=("rows.jsonl", lines(*rows)), purpose="fine-tune")
    return file.id


async def queued(client: openai.AsyncOpenAI, *rows: Mapping[str, Any], **fields: Any) -> str:
    """The id of a new job over such a file, supervised unless it says otherwise."""
    file = await uploaded(client, *(rows or (SFT,)))
    job = await client.fine_tuning.jobs.create(model="smollm2", training_file=file, **fields)
    return job.id


def published(
    context: Context,
    job: Job,
    name: str,
    step: int = 3,
    form: Literal["adapter", "merged"] = "adapter",
    method: str = "supervised",
) -> Checkpoint:
    """A checkpoint as a worker publishes it: a folder in place, then a record."""
    folder = context.store.folder / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    checkpoint = Checkpoint(
        name, job.id, job.model, method, form, step, f"checkpoints/{name}", "0" * 64, {"train_loss": 0.5}, 7
    )
    context.store.publish(checkpoint)
    return checkpoint
