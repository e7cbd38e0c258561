"""OpenAI's endpoints to try a grader out before a job depends on it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from service.background.judges import build_grader, resolve_grader
from service.context import ADMINS, ContextDep
from service.graders import Grade, Sample, check
from service.graders.specs import GraderSpec, ScoreModel
from service.schema import Strict
from service.web.bodies import read_object, unless_gone
from service.wire.described import FOR_ADMINS
from service.wire.fine_tuning import validate_as
from strategies.errors import EngineError

router = APIRouter(
    prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"], dependencies=ADMINS, responses=FOR_ADMINS
)

FLAGS = (
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)
DETAILS = (
    "model_grader_server_error_details",
    "python_grader_runtime_error_details",
    "python_grader_server_error_type",
)


class RunGrader(Strict):
    grader: dict[str, Any]
    model_sample: str
    item: Annotated[dict[str, Any], Field(default_factory=dict)]


class ValidateGrader(Strict):
    grader: dict[str, Any]


@router.post("/run")
async def run_grader(request: Request, context: ContextDep) -> dict[str, Any]:
    """Grade one sample. `sample.output_json` is the sample as JSON, where it is some."""
    raw, _ = await read_object(request, context.settings.max_body_bytes)
    body: RunGrader = validate_as(RunGrader, raw)
    spec = check(await resolve_grader(context, body.grader, "grader"))
    began, problem = time.perf_counter(), None
    try:
        grade = await unless_gone(request, build_grader(context, spec).explain(body.item, Sample(body.model_sample)))
    except EngineError as error:
        grade, problem = Grade(0.0), str(error)
    return result(spec, grade, problem, time.perf_counter() - began)


def result(spec: GraderSpec, grade: Grade, problem: str | None, seconds: float) -> dict[str, Any]:
    """OpenAI's shape, in which every flag is always there."""
    flags = {flag: flag in grade.faults for flag in FLAGS} | {"model_grader_server_error": problem is not None}
    details = dict.fromkeys(DETAILS) | {
        "model_grader_server_error_details": problem,
        "python_grader_runtime_error_details": grade.details.get("python_grader_runtime_error"),
        "python_grader_server_error_type": grade.details.get("python_grader_server_error"),
    }
    return {
        "reward": grade.score,
        "sub_rewards": dict(grade.parts),
        "metadata": {
            "name": spec.name,
            "type": spec.type,
            "errors": flags | details,
            "execution_time": seconds,
            "scores": dict(grade.parts) or {spec.name: grade.score},
            "sampled_model_name": spec.model if isinstance(spec, ScoreModel) else None,
            "token_usage": sum(grade.tokens.values()) if grade.tokens else None,
        },
        "model_grader_token_usage_per_model": dict(grade.tokens),
    }


@router.post("/validate")
async def validate_grader(request: Request, context: ContextDep) -> dict[str, Any]:
    """The grader as it will be used; 400 for one that cannot be."""
    raw, _ = await read_object(request, context.settings.max_body_bytes)
    return {"grader": await resolve_grader(context, validate_as(ValidateGrader, raw).grader, "grader")}
