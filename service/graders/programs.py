"""Graders that are programs of a client: code, patterns and schemas, tried where they may take anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.answers.matching import check_regex, check_schema
from service.answers.pool import AnswerPool
from service.errors import ApiError
from service.graders.specs import GraderSpec, JsonSchema, Multi, Python, Regex
from service.sandbox import Sandbox


async def check_program(spec: GraderSpec, where: str, workers: AnswerPool, sandbox: Sandbox) -> None:
    """Raise ApiError for a grader that cannot be loaded, with the path of what is wrong."""
    match spec:
        case Python():
            refuse(await sandbox.check_grader(spec.source), f"{where}.source")
        case Regex():
            refuse(await problem(workers, check_regex, spec.pattern), f"{where}.pattern")
        case JsonSchema():
            refuse(await problem(workers, check_schema, spec.text), f"{where}.schema")
        case Multi():
            for name, part in spec.graders.items():
                await check_program(part, f"{where}.graders.{name}", workers, sandbox)


async def problem(workers: AnswerPool, job: Callable[[Any], str | None], text: object) -> str | None:
    """What a job finds wrong, or that it takes too much."""
    try:
        return await workers.run(job, text)
    except TimeoutError:
        return f"takes longer than {workers.limit:g} s to read; simplify it"
    except MemoryError:
        return f"takes more than {workers.memory // 2**20} MiB to read; simplify it"


def refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise ApiError(400, f"{where}: {problem}", where, "invalid_value")
