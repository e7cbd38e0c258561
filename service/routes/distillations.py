"""Distillations: what a search finds becomes training data. The service does these jobs itself."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from service.background.distillation import forget
from service.background.judges import resolve_grader
from service.chat.order import create_order
from service.context import ADMINS, Context, ContextDep
from service.jobs import Job, Store, rows
from service.routes.fine_tuning import Limit, base_model, read_rows
from service.web.bodies import read_object
from service.wire.described import FOR_ADMINS
from service.wire.distillations import DistillationSpec, distillation_object
from service.wire.files import list_object
from service.wire.fine_tuning import event_object, validate_as

router = APIRouter(prefix="/v1/distillations", tags=["distillation"], dependencies=ADMINS, responses=FOR_ADMINS)


@router.post("")
async def create_distillation(request: Request, context: ContextDep) -> dict[str, Any]:
    """Queue a distillation, once its file was read and its first question would be taken as a chat request."""
    body, _ = await read_object(request, context.settings.max_body_bytes)
    spec = await complete(context, validate_as(DistillationSpec, body))
    first = await run_in_threadpool(check_questions, context.store, spec)
    chat = spec.chat(rows.QuestionRow.model_validate(first).prompt, 0)
    await create_order(chat, spec.model, None, context, context.jobs)
    return distillation_object(await run_in_threadpool(create, context.store, spec))


async def complete(context: Context, spec: DistillationSpec) -> DistillationSpec:
    """The spec with what its names stand for now, and a seed."""
    known: dict[str, Any] = {"model": await base_model(context, spec.model)}
    if spec.grader is not None:
        known["grader"] = await resolve_grader(context, spec.grader, "grader")
    if spec.seed is None:
        known["seed"] = random.randrange(2**31)
    return spec.model_copy(update=known)


def check_questions(store: Store, spec: DistillationSpec) -> Mapping[str, Any]:
    """Read the file to its last line, and return the first."""
    found = read_rows(store, spec.file, "file", rows.QuestionRow, spec.grader)
    first = next(found)
    for _ in found:
        pass
    return first


def create(store: Store, spec: DistillationSpec) -> Job:
    job = store.create_job("distillation", spec.model, spec.model_dump(mode="json"))
    store.note(job.id, "info", f"Created distillation: {job.id}")
    return job


@router.get("")
def list_distillations(context: ContextDep, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The distillations, the newest first."""
    return list_object(context.store.jobs("distillation", after=after, limit=limit), distillation_object)


@router.get("/{job_id}")
def retrieve_distillation(job_id: str, context: ContextDep) -> dict[str, Any]:
    """A distillation, with how far it is, and the files that it made."""
    return distillation_object(context.store.job(job_id, "distillation"))


@router.get("/{job_id}/events")
def list_events(job_id: str, context: ContextDep, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """What happened, the latest first: the questions that could not be answered among it."""
    context.store.job(job_id, "distillation")
    return list_object(context.store.events(job_id, after=after, limit=limit), event_object)


@router.post("/{job_id}/cancel")
def cancel_distillation(job_id: str, context: ContextDep) -> dict[str, Any]:
    """End a distillation; its files are not made."""
    context.store.job(job_id, "distillation")
    job = context.store.want(job_id, "cancel")
    if job.ended:  # nobody works on it, who would remove what is kept to go on
        forget(context.store, job.id)
    return distillation_object(job)
