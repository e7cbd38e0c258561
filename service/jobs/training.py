"""What a fine-tuning job holds in its `spec`, `progress` and `result`, and how its checkpoints are named.

The API checks a request against these models and the worker reads the same ones back, so neither can know a field that
the other does not. `"auto"` is left for the worker, which knows the data; what it chose it reports as the progress fact
`hyperparameters`.

Progress facts: `step`, `total_steps`, `loss`, `reward`, `learning_rate`, `trained_tokens`, `eta_seconds`,
`hyperparameters`. Result: `fine_tuned_model`, `trained_tokens`, `result_files` (ids of files).
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import SerializeAsAny

from service.jobs.methods import METHODS
from service.jobs.methods.base import Extras, Hyperparameters
from service.schema import Strict

ROLLOUTS = ":rollouts-"
"""In the names of the adapters that GRPO samples from while it trains: nobody else's."""

NAME_PART = re.compile(r"[a-z0-9._-]{1,64}")


class TrainingSpec(Strict):
    """`Job.spec` of a fine-tuning job: a request that was checked, with its defaults."""

    method: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int
    hyperparameters: SerializeAsAny[Hyperparameters]
    grader: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    outthink: SerializeAsAny[Extras]
    metadata: dict[str, str] | None = None

    @classmethod
    def of(cls, spec: dict[str, Any]) -> TrainingSpec:
        """Read a job's spec back, with the models of its method."""
        method = METHODS[spec["method"]]
        return cls.model_validate(
            spec
            | {
                "hyperparameters": method.hyperparameters.model_validate(spec["hyperparameters"]),
                "outthink": method.extras.model_validate(spec["outthink"]),
            }
        )


def checkpoint_name(base: str, suffix: str, job: str, step: int | None = None) -> str:
    """`ft:<slug>:<suffix>:<job>`, or with `:ckpt-step-<n>` before the end of the job; safe as a folder's name.

    `job` is `Job.short`. The slug is the last segment of the base's served name; a checkpoint's own slug is its base's.
    """
    name = f"ft:{slug(base)}:{suffix}:{job}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def slug(base: str) -> str:
    """The part of a checkpoint's name that says what it was made from."""
    if base.startswith("ft:"):
        return base.split(":")[1]
    return re.sub(r"[^a-z0-9._-]", "-", base.rpartition("/")[2].lower())[:64] or "model"
