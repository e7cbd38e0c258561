"""OpenAI's shapes of a fine-tuning job, its events and its checkpoints; from a request to a `TrainingSpec`."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, model_validator

from service.errors import ApiError, invalid
from service.graders import check
from service.graders.specs import dump
from service.jobs import Checkpoint, Event, Job
from service.jobs.methods import METHODS
from service.jobs.methods.base import Hyperparameters, TrainingMethod
from service.jobs.training import NAME_PART, TrainingSpec
from service.schema import Strict

Suffix = Annotated[str, Field(pattern=f"^{NAME_PART.pattern}$")]
Kept = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Text that every database holds: PostgreSQL's has no NUL."""

Metadata = Annotated[
    dict[Annotated[Kept, Field(max_length=64)], Annotated[Kept, Field(max_length=512)]], Field(max_length=16)
]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class JsonSchema(Strict):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('type "json_schema" needs json_schema, and no other type takes it')
        return self


@cache
def method_model(method: TrainingMethod) -> type[Strict]:
    """`{"type": "dpo", "dpo": {"hyperparameters": {…}}}`; a graded method's options hold its grader and are needed.

    `response_format` makes the samples JSON, for graders that read `sample.output_json`.
    """
    fields: dict[str, Any] = {"hyperparameters": (method.hyperparameters, method.hyperparameters())}
    if method.graded:
        fields |= {"grader": (dict[str, Any], ...), "response_format": (ResponseFormat | None, None)}
    options = create_model(f"{method.name}_options", __base__=Strict, **fields)
    own: Any = (options, ...) if method.graded else (options | None, None)
    kind: Any = (Literal.__getitem__(method.name), method.name)
    model: type[Strict] = create_model(f"{method.name}_method", __base__=Strict, **{"type": kind, method.name: own})
    return model


class CreateJob(Strict):
    """The body of a new job. `method` and `outthink` are checked by the models of their method."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: dict[str, Any] | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: Suffix | None = None
    seed: Seed | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    outthink: dict[str, Any] | None = None

    @model_validator(mode="after")
    def one_place(self) -> CreateJob:
        if self.hyperparameters is not None and self.method is not None:
            raise ValueError("hyperparameters is deprecated: put them into method, not both")
        return self


def training_spec(body: Mapping[str, Any]) -> tuple[str, TrainingSpec]:
    """The model and what is to be done with it; raise ApiError with the path of what is wrong."""
    request = validate_as(CreateJob, body)
    method = method_of(request.method)
    options = getattr(method, method.type)
    record = METHODS[method.type]
    check_evaluated(request, record, options)
    spec = TrainingSpec(
        method=method.type,
        training_file=request.training_file,
        validation_file=request.validation_file,
        suffix=request.suffix,
        seed=random.randrange(2**31) if request.seed is None else request.seed,
        hyperparameters=request.hyperparameters or (options.hyperparameters if options else record.hyperparameters()),
        grader=grader_of(record, options),
        response_format=format_of(record, options),
        outthink=validate_as(record.extras, request.outthink or {}, "outthink"),
        metadata=request.metadata,
    )
    return request.model, spec


def method_of(body: Mapping[str, Any] | None) -> Any:
    if body is None:
        return method_model(METHODS["supervised"])()
    kind = body.get("type")
    if not isinstance(kind, str) or kind not in METHODS:
        allowed = ", ".join(METHODS)
        raise ApiError(400, f"method.type: there is no method {kind!r}; there are {allowed}", "method.type")
    given = {name: value for name, value in body.items() if value is not None}
    return validate_as(method_model(METHODS[kind]), given, "method")


def check_evaluated(request: CreateJob, method: TrainingMethod, options: Any) -> None:
    """Raise ApiError for numbers of evaluations that nothing is there for."""
    if request.validation_file is not None or options is None:
        return
    for name, value in options.hyperparameters.model_dump().items():
        if name.startswith("eval_") and value != "auto":
            param = f"method.{method.name}.hyperparameters.{name}"
            raise ApiError(400, f"{param}: needs a validation_file, on which is evaluated", param)


def grader_of(method: TrainingMethod, options: Any) -> dict[str, Any] | None:
    if not method.graded:
        return None
    return dump(check(options.grader, f"method.{method.name}.grader"))


def format_of(method: TrainingMethod, options: Any) -> dict[str, Any] | None:
    found: ResponseFormat | None = options.response_format if method.graded else None
    return None if found is None else found.model_dump(by_alias=True, exclude_none=True)


def validate_as(model: type[Any], body: Mapping[str, Any], *where: str) -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid(error, where) from error


def job_object(job: Job) -> dict[str, Any]:
    """A job as OpenAI has it: every field is there, null where nothing is known yet.

    What the worker made of `"auto"` replaces it as soon as it has said so. `outthink` holds what OpenAI has no field
    for.
    """
    spec, now = job.spec, job.progress
    hyperparameters = {**spec["hyperparameters"], **now.get("hyperparameters", {})}
    options = {"hyperparameters": hyperparameters}
    options |= {name: spec[name] for name in ("grader", "response_format") if spec[name] is not None}
    done = job.status == "succeeded"
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "estimated_finish": finish_estimated(job),
        "status": job.status,
        "error": job.error,
        "model": job.model,
        "fine_tuned_model": job.result.get("fine_tuned_model"),
        "organization_id": "outthink",
        "training_file": spec["training_file"],
        "validation_file": spec["validation_file"],
        "result_files": job.result.get("result_files", []),
        "trained_tokens": job.result.get("trained_tokens") if done else None,
        "hyperparameters": {name: hyperparameters[name] for name in Hyperparameters.model_fields},
        "method": {"type": spec["method"], spec["method"]: options},
        "seed": spec["seed"],
        "user_provided_suffix": spec["suffix"],
        "integrations": [],
        "metadata": spec["metadata"],
        "outthink": {**spec["outthink"], "progress": now, "paused": job.paused, "attempt": job.attempt},
    }


def finish_estimated(job: Job) -> int | None:
    seconds = job.progress.get("eta_seconds") if job.status == "running" else None
    return None if seconds is None else int(time.time() + seconds)


def event_object(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created_at,
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }


METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


def checkpoint_object(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint's id is its name, which no other ever has."""
    return {
        "id": checkpoint.name,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": checkpoint.job_id,
        "step_number": checkpoint.step,
        "metrics": {**dict.fromkeys(METRICS), "step": checkpoint.step, **checkpoint.metrics},
    }
