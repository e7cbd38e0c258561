"""OpenAI's files API. What is uploaded goes to disk as it comes, under a name of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.context import ADMINS, ContextDep
from service.errors import ApiError
from service.web.bodies import next_part
from service.wire.described import FOR_ADMINS
from service.wire.files import file_object, list_object

router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=ADMINS, responses=FOR_ADMINS)

PURPOSES = ("fine-tune", "evals")
ENVELOPE = 16 * 1024
"""Bytes of a form that are not the file: boundaries, headers, other fields."""

LONGEST_NAME = 255
PART_BYTES = 256 * 1024


@router.post("")
async def create_file(request: Request, context: ContextDep) -> dict[str, Any]:
    """Upload a file: a form with `file` and `purpose`, which is `fine-tune` or `evals`."""
    limit = context.settings.max_file_bytes
    form = await read_form(request, limit)
    try:
        upload, purpose = fields(form)
        if (upload.size or 0) > limit:
            raise too_large(limit)
        name = (upload.filename or "file")[:LONGEST_NAME]
        return file_object(await run_in_threadpool(context.store.write_file, purpose, name, upload.file))
    finally:
        await form.close()


async def read_form(request: Request, limit: int) -> FormData:
    """The form, its file in a temporary file; refused as soon as it is known to be too large."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "the body must be multipart/form-data with `file` and `purpose`", "file")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit + ENVELOPE:
        raise too_large(limit)
    try:
        return await MultiPartParser(request.headers, bound_size(request, limit), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}", "file") from error


async def bound_size(request: Request, limit: int) -> AsyncGenerator[bytes]:
    size, stream = 0, request.stream()
    while (part := await next_part(stream)) is not None:
        size += len(part)
        if size > limit + ENVELOPE:
            raise too_large(limit)
        yield part


def too_large(limit: int) -> ApiError:
    return ApiError(413, f"file: is larger than {limit} bytes (OUTTHINK_MAX_FILE_BYTES)", "file", "file_too_large")


def fields(form: FormData) -> tuple[UploadFile, str]:
    for name in form:
        if name not in ("file", "purpose"):
            raise ApiError(400, f"{name} is not supported by this server", name, "unsupported_parameter")
    upload, purpose = form.get("file"), form.get("purpose")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "file: is missing, or has no file name", "file", "missing_required_parameter")
    if not isinstance(purpose, str) or purpose not in PURPOSES:
        raise ApiError(400, f"purpose: must be one of {', '.join(PURPOSES)}, not {purpose!r}", "purpose")
    return upload, purpose


@router.get("")
def list_files(
    context: ContextDep,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The files, the newest first."""
    return list_object(context.store.files(purpose=purpose, after=after, limit=limit, order=order), file_object)


@router.get("/{file_id}")
def retrieve_file(file_id: str, context: ContextDep) -> dict[str, Any]:
    """What is known of a file."""
    return file_object(context.store.file(file_id))


@router.get("/{file_id}/content")
def file_content(file_id: str, context: ContextDep) -> Response:
    """The file's bytes."""
    name = quote(context.store.file(file_id).filename)
    parts = parts_of(context.store.path(file_id).open("rb"))
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return StreamingResponse(parts, media_type="application/octet-stream", headers=headers)


def parts_of(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(PART_BYTES):
            yield part


@router.delete("/{file_id}")
def delete_file(file_id: str, context: ContextDep) -> dict[str, Any]:
    """Delete a file. A job that was to read it fails."""
    context.store.delete_file(file_id)
    return {"id": file_id, "object": "file", "deleted": True}
