"""OpenAI's shape of a file, and of a list that is read page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from service.jobs import File, Page

T = TypeVar("T")


def file_object(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
        "sha256": file.sha256,
    }


def list_object(page: Page[T], shape: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    data = [shape(entry) for entry in page.data]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": page.has_more, **ends}
