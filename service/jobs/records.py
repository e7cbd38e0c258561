"""The records of the store, as frozen values. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Kind = Literal["fine_tuning", "distillation", "benchmark"]
Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
Ended = Literal["succeeded", "failed", "cancelled"]
Wanted = Literal["run", "pause", "cancel"]
Level = Literal["info", "warn", "error"]
SortOrder = Literal["asc", "desc"]

OPEN: tuple[Status, ...] = ("validating_files", "queued", "running")
"""The statuses of jobs that have not ended. A paused job is `queued` and wanted to `pause`."""

PREFIX: Mapping[Kind, str] = {"fine_tuning": "ftjob-", "distillation": "distill-", "benchmark": "bench-"}


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded or a made file; its bytes are at `Store.path(id)`."""

    id: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that is on the disk, at `path`, and in no list: it becomes one in the transaction that it belongs to."""

    file: File
    path: Path


@dataclass(frozen=True, slots=True)
class Job:
    """One job of any kind.

    `spec` is what is to be done, `progress` what is being done, `result` what was done, `error` why it was not (with
    `code`, `message`, `param`). What they hold is up to the kind; for fine-tuning see `service.jobs.training`.
    """

    id: str
    kind: Kind
    status: Status
    wanted: Wanted
    model: str
    spec: dict[str, Any]
    progress: dict[str, Any]
    result: dict[str, Any]
    error: dict[str, Any] | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    lease_owner: str | None
    lease_until: float | None
    attempt: int

    @property
    def short(self) -> str:
        """The id without its kind: the last part of a checkpoint's name."""
        return self.id.removeprefix(PREFIX[self.kind])

    @property
    def ended(self) -> bool:
        return self.status not in OPEN

    @property
    def paused(self) -> bool:
        return self.status == "queued" and self.wanted == "pause"


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a job's story; `type` is `metrics` when there is data."""

    id: str
    job_id: str
    created_at: int
    level: Level
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Published weights. `name` is what a request sends as its model; it carries the version and is never used again.

    `path` is relative to the data directory, which may be mounted elsewhere on another machine. `sha256` is of the
    weights. `form` is `adapter` (LoRA, loaded by the engine that runs) or `merged` (whole weights).
    """

    name: str
    job_id: str
    parent: str
    method: str
    form: Literal["adapter", "merged"]
    step: int
    path: str
    sha256: str
    metrics: dict[str, Any]
    created_at: int
    deleted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that stands for a model and can be moved."""

    name: str
    model: str
    updated_at: int


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, and whether there are more after them."""

    data: Sequence[T]
    has_more: bool
