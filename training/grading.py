"""Graders, for a trainer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from service import graders
from service.answers.pool import AnswerPool
from service.sandbox import open_sandbox
from training.engine import Serving, through_service
from training.run import Row, TrainingRun


@dataclass(frozen=True, slots=True)
class BatchGrader:
    """Grades many samples at once."""

    serving: Serving
    grader: graders.Grader

    def grade(self, rows: Sequence[Row], samples: Sequence[graders.Sample]) -> list[float]:
        """The scores of samples as answers to rows; a judge that is down is waited for."""
        return self.serving.patiently(lambda: self._grade(rows, samples))

    async def _grade(self, rows: Sequence[Row], samples: Sequence[graders.Sample]) -> list[float]:
        return await asyncio.gather(*map(self.grader.grade, rows, samples))


@contextmanager
def judge(run: TrainingRun) -> Iterator[BatchGrader]:
    """The job's grader, or our own for mathematics."""
    spec = graders.check(run.spec.grader or {"type": "math", "name": "math"})
    settings = through_service(run.task.settings) if run.task.judge_apart else run.task.settings
    workers = AnswerPool(settings.answer_workers, settings.answer_seconds, settings.answer_memory_bytes)
    sandbox = open_sandbox(settings)
    key = settings.engine_api_key.get_secret_value()
    client = httpx.AsyncClient(
        base_url=f"{settings.engine_base}/v1/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=settings.first_byte_seconds,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    )
    try:
        yield BatchGrader(run.serving, graders.build(spec, workers, graders.HttpAsk(client), sandbox))
    finally:
        workers.close()
        sandbox.pool.close()
        run.serving.run(client.aclose())


def structured(response_format: dict[str, Any] | None) -> dict[str, Any]:
    """What makes vLLM's completions endpoint answer in OpenAI's `response_format`."""
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"structured_outputs": {"json": schema}}
        case {"type": "json_object"}:
            return {"structured_outputs": {"json_object": True}}
    return {}
