"""Benchmarks: accuracy against compute, as jobs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from pydantic import ValidationError

from service.background.judges import resolve_grader
from service.benchmarks import lines, recipe, report
from service.benchmarks.questions import Item
from service.benchmarks.run import delete, figures, home, root
from service.context import ADMINS, Context, ContextDep
from service.errors import ApiError, invalid
from service.jobs import Job, Missing, Store
from service.threads import in_thread
from service.web.bodies import Stream, read_object
from service.wire.benchmarks import BenchmarkRequest
from service.wire.described import FOR_ADMINS

router = APIRouter(prefix="/v1/benchmarks", tags=["benchmarks"], dependencies=ADMINS, responses=FOR_ADMINS)

PAGE = Query(20, ge=1, le=100)
QUESTIONS = Query(report.SHOWN, ge=0, le=report.SHOWN)
FOLLOW_SECONDS = 0.5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""The report shows what models wrote: even if something in it were taken for a script, it would not run."""


@router.post("")
async def create_benchmark(request: Request, context: ContextDep) -> dict[str, Any]:
    """Queue a grid of strategies and sizes over a dataset; with `dry_run` only say how large it is."""
    body, _ = await read_object(request, context.settings.max_body_bytes)
    try:
        asked = BenchmarkRequest.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from error
    if asked.grader is not None:
        asked = asked.model_copy(update={"grader": await resolve_grader(context, asked.grader, "grader")})
    grid = await recipe.plan(asked, context)
    if asked.dry_run:
        return {"object": "benchmark.plan", **grid.as_dict(), "tasks": [task.strategy for task in grid.tasks]}
    folder = uuid4().hex
    spec = recipe.to_spec(asked, grid, folder)
    models = ", ".join(dict.fromkeys(task.model for task in grid.tasks))
    return benchmark_object(await in_thread(queue, context, models, spec, grid.items))


def queue(context: Context, models: str, spec: Mapping[str, Any], items: Sequence[Item]) -> Job:
    """Write the questions down, and then the job; without the one there is not the other."""
    folder = root(context) / str(spec["folder"])
    lines.write_questions(folder, items)
    try:
        return context.store.create_job("benchmark", models, spec)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@router.get("")
async def list_benchmarks(context: ContextDep, limit: int = PAGE, after: str | None = None) -> dict[str, Any]:
    """All benchmarks, the newest first, without their results."""
    page = await asyncio.to_thread(lambda: context.store.jobs("benchmark", after=after, limit=limit))
    return {"object": "list", "data": [benchmark_object(job) for job in page.data], "has_more": page.has_more}


async def find_benchmark(benchmark_id: str, context: ContextDep) -> Job:
    try:
        return await asyncio.to_thread(context.store.job, benchmark_id, "benchmark")
    except Missing:
        raise ApiError(404, f"there is no benchmark {benchmark_id!r}", "benchmark_id", "not_found") from None


JobDep = Annotated[Job, Depends(find_benchmark)]


@router.get("/{benchmark_id}")
async def retrieve_benchmark(job: JobDep, context: ContextDep) -> dict[str, Any]:
    """One benchmark; its figures once it has ended, also when that was early."""
    return {**benchmark_object(job), **(await read_figures(job, context) if job.ended else {})}


@router.get("/{benchmark_id}/results.csv")
async def results_csv(job: JobDep, context: ContextDep) -> Response:
    """The results so far, a row for every cell."""
    text = await asyncio.to_thread(report.table, (await read_figures(job, context))["results"])
    return Response(text, media_type="text/csv", headers=download_headers(job, "csv"))


@router.get("/{benchmark_id}/samples.jsonl")
async def samples_jsonl(job: JobDep, context: ContextDep) -> StreamingResponse:
    """Every question of every task and seed so far: all candidates, votes and scores."""
    samples = lines.samples(home(context, job))
    return StreamingResponse(samples.lines(), media_type="application/jsonl", headers=download_headers(job, "jsonl"))


@router.get("/{benchmark_id}/report", response_class=HTMLResponse)
async def html_report(job: JobDep, context: ContextDep, questions: int = QUESTIONS) -> HTMLResponse:
    """Plots, tables and the hardest `questions` so far, in one file that needs nothing else."""
    said = await read_figures(job, context)
    text = await asyncio.to_thread(report.html, job, said, lines.samples(home(context, job)), questions)
    return HTMLResponse(text, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})


@router.get("/{benchmark_id}/events")
async def events(job: JobDep, context: ContextDep) -> Stream:
    """What has happened and what happens, as server-sent events, until the benchmark has ended."""
    return Stream(follow_events(job, context.store))


@router.post("/{benchmark_id}/cancel")
async def cancel_benchmark(job: JobDep, context: ContextDep) -> dict[str, Any]:
    """Stop it, keeping what was done."""
    return benchmark_object(await asyncio.to_thread(context.store.want, job.id, "cancel"))


@router.post("/{benchmark_id}/resume")
async def resume_benchmark(job: JobDep, context: ContextDep) -> dict[str, Any]:
    """Go on with one that failed or was cancelled; what is done is not done again."""
    return benchmark_object(await asyncio.to_thread(context.store.reopen, job.id))


@router.delete("/{benchmark_id}")
async def delete_benchmark(job: JobDep, context: ContextDep) -> dict[str, Any]:
    """Forget one that has ended, with its samples."""
    await in_thread(delete, context, job)
    return {"id": job.id, "object": "benchmark", "deleted": True}


async def read_figures(job: Job, context: Context) -> Mapping[str, Any]:
    """The figures that were written down when it ended; else made anew from what there is."""
    return job.result if job.ended and job.result else await figures(context, job)


def benchmark_object(job: Job) -> dict[str, Any]:
    """A benchmark as the API shows it."""
    nothing = {"done": 0, "total": job.spec["grid"]["requests"], "seconds": 0.0, "eta_seconds": None, "tasks": []}
    progress = nothing | job.progress
    if job.ended:
        progress["eta_seconds"] = None
    return {
        "id": job.id,
        "object": "benchmark",
        "status": job.status,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "model": job.model,
        "request": job.spec["request"],
        "grid": job.spec["grid"],
        "progress": progress,
        "results": [],
        "fits": [],
        "comparisons": [],
        "error": job.error,
    }


def download_headers(job: Job, kind: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{job.id}.{kind}"'}


async def follow_events(job: Job, store: Store) -> AsyncGenerator[bytes]:
    """The events of the store and, between them, changes of progress. Another process may be the one that works."""
    after, said = None, b""
    while True:
        job = await asyncio.to_thread(store.job, job.id)  # read before the events: none is missed when it ends
        page = await asyncio.to_thread(partial(store.events, job.id, after=after, limit=100, order="asc"))
        for event in page.data:
            after = event.id
            told = {name: getattr(event, name) for name in ("type", "level", "message", "data", "created_at")}
            yield event_line(told)
        if page.has_more:
            continue
        progress = event_line({"type": "progress", "status": job.status, **benchmark_object(job)["progress"]})
        yield progress if progress != said else b":\n\n"  # a comment keeps the connection alive
        said = progress
        if job.ended:
            yield b"data: [DONE]\n\n"
            return
        await asyncio.sleep(FOLLOW_SECONDS)


def event_line(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps({"object": "benchmark.event", **body}) + b"\n\n"
