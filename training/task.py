"""What passes between the worker and the child that trains: a task one way, reports the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.jobs.records import Checkpoint, Job, Level
from service.jobs.training import TrainingSpec, checkpoint_name
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Task:
    """One job with the paths of its files, and of the checkpoint that it goes on from, if it does.

    `judge_apart`: its grader asks a model that has weights of its own, which only the service finds.
    """

    settings: Settings
    job: Job
    training: Path
    validation: Path | None = None
    parent: Checkpoint | None = None
    judge_apart: bool = False

    @property
    def spec(self) -> TrainingSpec:
        return TrainingSpec.of(self.job.spec)

    @property
    def data(self) -> Path:
        return self.settings.data_dir.absolute()

    @property
    def folder(self) -> Path:
        """What is needed to take the job up again, and the child's log; shared as the data directory is."""
        return self.data / "jobs" / self.job.id

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    def name(self, step: int | None = None) -> str:
        return checkpoint_name(self.job.model, self.spec.suffix or self.spec.method, self.job.short, step)

    def target(self, name: str) -> Path:
        return self.data / "checkpoints" / name


@dataclass(frozen=True, slots=True)
class Note:
    """An event of the job's story."""

    message: str
    data: dict[str, Any] | None = None
    level: Level = "info"


@dataclass(frozen=True, slots=True)
class Facts:
    """How far the job is."""

    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint is in place."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Done:
    """The job's result, and its metrics as rows of a table."""

    result: dict[str, Any]
    metrics: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failed:
    """Why the job cannot be done."""

    message: str
    code: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The child has stopped as it was asked to; the job can be taken up again."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The child was killed because the job is not wanted any more."""


Report = Note | Facts | Published
End = Done | Failed | Stopped | Cancelled
