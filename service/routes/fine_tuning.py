"""OpenAI's fine-tuning API. The jobs are done by workers, in processes of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.background.judges import resolve_grader
from service.context import ADMINS, Context, ContextDep
from service.errors import ApiError
from service.graders import check as validate_as
from service.graders import paths
from service.graders.specs import reads_calls
from service.jobs import BadCursor, Job, Missing, Page, Store, Wanted, rows
from service.jobs.methods import METHODS
from service.jobs.training import TrainingSpec
from service.routes.files import PURPOSES
from service.web.bodies import read_object
from service.wire.described import FOR_ADMINS
from service.wire.files import list_object
from service.wire.fine_tuning import checkpoint_object, event_object, job_object, training_spec

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], dependencies=ADMINS, responses=FOR_ADMINS)

Limit = Annotated[int, Query(ge=1, le=1000)]
FILTER = re.compile(r"metadata\[[^\"\\]+\]")


@router.post("")
async def create_fine_tuning_job(request: Request, context: ContextDep) -> dict[str, Any]:
    """Queue a job, once its files were read to the last line."""
    body, _ = await read_object(request, context.settings.max_body_bytes)
    name, spec = training_spec(body)
    model = await base_model(context, name)
    check_parent(context, model, spec)
    if spec.grader is not None:
        grader = await resolve_grader(context, spec.grader, f"method.{spec.method}.grader")
        spec = spec.model_copy(update={"grader": grader})
    return job_object(await run_in_threadpool(create, context.store, model, spec))


async def base_model(context: Context, name: str) -> str:
    """The model that a name stands for; a preset is no model."""
    model, preset = await context.models.resolve(name)
    if preset is not None:
        raise ApiError(400, f"model: {name} names a strategy; leave out @{preset.name}", "model")
    return model


def check_parent(context: Context, model: str, spec: TrainingSpec) -> None:
    """Raise ApiError for what cannot be made of a checkpoint.

    Full weights are trained from whole ones; an adapter on them would be lost. The vLLM of a checkpoint that has
    weights of its own takes no adapters.
    """
    if context.models.full_weights_folder(model) is None:
        checkpoint = context.models.checkpoints.get(model)
        if spec.outthink.weights == "full" and checkpoint is not None and checkpoint.form == "adapter":
            message = f"outthink.weights: {model} is an adapter; what is trained further from it is an adapter too"
            raise ApiError(400, message, "outthink.weights")
        if checkpoint is None and context.models.listed.get(model, {}).get("parent"):
            message = (
                f"model: {model} is an adapter that the engine was started with; only checkpoints are trained further"
            )
            raise ApiError(400, message, "model")
        return
    if METHODS[spec.method].rollouts == "adapter":
        message = f"model: {model} has weights of its own, and reinforcement samples from adapters; train it by dpo"
        raise ApiError(400, message, "model")
    if spec.outthink.publish == "adapter":
        message = f'outthink.publish: {model} has weights of its own; what is made of it must be "merged" too'
        raise ApiError(400, message, "outthink.publish")
    if METHODS[spec.method].rollouts == "model":
        context.models.check_served(model, "model")


def create(store: Store, model: str, spec: TrainingSpec) -> Job:
    files = {"training_file": spec.training_file, "validation_file": spec.validation_file}
    with_tools = 0
    for param, file_id in files.items():
        if file_id is not None:
            found = read_rows(store, file_id, param, METHODS[spec.method].row, spec.grader)
            with_tools += sum(bool(row.get("tools")) for row in found)
    if spec.grader is not None and not with_tools and reads_calls(validate_as(spec.grader)):
        param = f"method.{spec.method}.grader"
        raise ApiError(400, f"{param}: reads sample.output_tools, and no row has tools that could be called", param)
    job = store.create_job("fine_tuning", model, spec.model_dump(mode="json"))
    store.note(job.id, "info", f"Created fine-tuning job: {job.id}")
    return job


def read_rows(
    store: Store, file_id: str, param: str, row: type[BaseModel], grader: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """The rows of a file as its method, and its grader, will read them; raise ApiError with the line that is wrong."""
    wanted = () if grader is None else paths(validate_as(grader))

    def check(found: Mapping[str, Any]) -> None:
        for path in wanted:
            path.walk(found)

    try:
        if store.file(file_id).purpose not in PURPOSES:
            raise ApiError(
                400, f"{param}: the purpose of {file_id} must be {' or '.join(PURPOSES)}", param, "invalid_file"
            )
        yield from rows.read(store.path(file_id), row, check)
    except (Missing, FileNotFoundError) as error:
        raise ApiError(400, f"{param}: there is no file {file_id!r}", param, "file_not_found") from error
    except rows.BadLine as error:
        raise ApiError(400, f"{param}: {error}", param, "invalid_file") from error


@router.get("")
def list_fine_tuning_jobs(
    request: Request, context: ContextDep, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """The jobs, the newest first; `metadata[key]=value` keeps those that have it."""
    metadata = parse_metadata(request.query_params)
    return list_object(context.store.jobs("fine_tuning", after=after, limit=limit, metadata=metadata), job_object)


def parse_metadata(query: Mapping[str, str]) -> dict[str, str]:
    """`metadata[key]=value` of a query; a quote in a key would end it in the database's own notation."""
    found = {name: value for name, value in query.items() if name.startswith("metadata")}
    for name in found:
        if not FILTER.fullmatch(name):
            raise ApiError(400, "metadata: filter by metadata[key]=value", "metadata", "unsupported_parameter")
    return {name[len("metadata[") : -1]: value for name, value in found.items()}


@router.get("/{job_id}")
def retrieve_fine_tuning_job(job_id: str, context: ContextDep) -> dict[str, Any]:
    """A job, with how far it is."""
    return job_object(context.store.job(job_id, "fine_tuning"))


@router.get("/{job_id}/events")
def list_events(job_id: str, context: ContextDep, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """What happened in a job, the latest first."""
    context.store.job(job_id, "fine_tuning")
    return list_object(context.store.events(job_id, after=after, limit=limit), event_object)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(job_id: str, context: ContextDep, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
    """The checkpoints that a job has published, the latest first."""
    context.store.job(job_id, "fine_tuning")
    found = context.store.checkpoints(job_id)
    names = [checkpoint.name for checkpoint in found]
    if after is not None and after not in names:
        raise BadCursor(f"there is nothing with the id {after!r} in this list")
    first = 0 if after is None else names.index(after) + 1
    return list_object(Page(found[first : first + limit], len(found) > first + limit), checkpoint_object)


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(job_id: str, context: ContextDep) -> dict[str, Any]:
    """End a job: at once when it waits, within a step when it runs."""
    return request_state(context, job_id, "cancel")


@router.post("/{job_id}/pause")
def pause_fine_tuning_job(job_id: str, context: ContextDep) -> dict[str, Any]:
    """Have a job wait, after its next save, until it is resumed."""
    return request_state(context, job_id, "pause")


@router.post("/{job_id}/resume")
def resume_fine_tuning_job(job_id: str, context: ContextDep) -> dict[str, Any]:
    """Let a paused job go on from where it was saved."""
    return request_state(context, job_id, "run")


def request_state(context: Context, job_id: str, wanted: Wanted) -> dict[str, Any]:
    context.store.job(job_id, "fine_tuning")
    return job_object(context.store.want(job_id, wanted))
