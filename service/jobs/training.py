"""What a fine-tuning job holds in its `spec`, `progress` and `result`, and how its checkpoints are named.

The API checks a request against these models and the worker reads the same ones back, so neither can know a field that
the other does not. `"auto"` is left for the worker, which knows the data; what it chose it reports as the progress fact
`hyperparameters`.

Progress facts: `step`, `total_steps`, `loss`, `reward`, `learning_rate`, `trained_tokens`, `eta_seconds`,
`hyperparameters`. Result: `fine_tuned_model`, `trained_tokens`, `result_files` (ids of files).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from service.schema import Strict
from strategies.steps import Step

ROLLOUTS = ":rollouts-"
"""In the names of the adapters that GRPO samples from while it trains: nobody else's."""

Auto = Literal["auto"]
Method = Literal["supervised", "dpo", "reinforcement", "verifier"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Temperature = Annotated[float, Field(gt=0, le=2)]

NAME_PART = re.compile(r"[a-z0-9._-]{1,64}")


class Supervised(Strict):
    """The hyperparameters of SFT; also the deprecated top-level `hyperparameters`."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Positive = "auto"


class Dpo(Supervised):
    """The hyperparameters of DPO. `beta` holds the policy near its reference."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class Reinforcement(Supervised):
    """The hyperparameters of GRPO. `batch_size` counts questions a step.

    `compute_multiplier` multiplies the samples of a question; `eval_interval` is in steps, `eval_samples` are the
    samples of a question in an evaluation.
    """

    compute_multiplier: Auto | Annotated[float, Field(gt=0.00001, le=10)] = "auto"
    eval_interval: Auto | Count = "auto"
    eval_samples: Auto | Count = "auto"
    reasoning_effort: Literal["default"] = "default"


class Verifier(Supervised):
    """The hyperparameters of the verifier, which is trained as SFT is."""


class Extras(Strict):
    """`outthink` in a request: what OpenAI has no field for. None is for the worker to choose.

    `weights: full` trains all weights instead of a LoRA adapter of `rank` and `alpha`; `publish: merged` writes whole
    weights, the only way for full ones. `learning_rate` replaces the worker's own, multiplied. `max_length` of a
    conversation is in tokens; longer ones are cut. `save_steps`: a checkpoint to resume from every so many steps.
    """

    weights: Literal["lora", "full"] = "lora"
    rank: Annotated[int, Field(ge=1, le=256)] | None = None
    alpha: Annotated[int, Field(ge=1, le=512)] | None = None
    publish: Literal["adapter", "merged"] = "adapter"
    max_steps: Count | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    max_length: Annotated[int, Field(ge=16)] | None = None
    save_steps: Count | None = None

    @model_validator(mode="after")
    def full_weights_are_whole(self) -> Extras:
        if self.weights == "full" and self.publish == "adapter":
            raise ValueError('full weights cannot be published as an adapter: add publish: "merged"')
        if self.weights == "full" and (self.rank or self.alpha):
            raise ValueError("rank and alpha are of LoRA: leave them out with full weights")
        return self


class Sampling(Extras):
    """Of the methods that sample from the engine. `max_tokens` bounds one answer."""

    samples: Annotated[int, Field(ge=2, le=256)] | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None


class ReinforcementExtras(Sampling):
    """`samples` of a question make a group; the adapter is published to the engine every `publish_every` steps;
    `kl` is the weight of the penalty for leaving the reference, GRPO's beta."""

    publish_every: Count | None = None
    kl: Annotated[float, Field(ge=0, le=1)] | None = None

    @field_validator("weights")
    @classmethod
    def samples_with_an_adapter(cls, weights: str) -> str:
        if weights == "full":
            raise ValueError("reinforcement samples with an adapter: it cannot train full weights")
        return weights


class VerifierExtras(Sampling):
    """`samples` solutions of a question are cut into steps, and each step is labelled by `rollouts` from it.

    `delimiter` ends a step, as in the searches that the verifier is for. `estimation`: whether a step is good when any
    of its rollouts is right (`hard`), or as far as they are (`soft`). `format`: of the generative scorer.
    """

    rollouts: Annotated[int, Field(ge=1, le=64)] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=32)] = Step().delimiter
    estimation: Literal["hard", "soft"] = "hard"
    format: Literal["yes_no", "rlhflow"] = "yes_no"

    @model_validator(mode="after")
    def soft_marks_are_asked_for(self) -> VerifierExtras:
        if (self.format, self.estimation) == ("rlhflow", "soft"):
            raise ValueError('estimation "soft" needs format "yes_no"')
        return self


class TrainingSpec(Strict):
    """`Job.spec` of a fine-tuning job: a request that was checked, with its defaults."""

    method: Method
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int
    hyperparameters: Supervised | Dpo | Reinforcement | Verifier
    grader: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    outthink: Extras | ReinforcementExtras | VerifierExtras
    metadata: dict[str, str] | None = None

    @classmethod
    def of(cls, spec: dict[str, Any]) -> TrainingSpec:
        """Read a job's spec back, with the models of its method."""
        hyperparameters, extras = MODELS[spec["method"]]
        return cls.model_validate(
            spec
            | {
                "hyperparameters": hyperparameters.model_validate(spec["hyperparameters"]),
                "outthink": extras.model_validate(spec["outthink"]),
            }
        )


MODELS: dict[Method, tuple[type[Supervised], type[Extras]]] = {
    "supervised": (Supervised, Extras),
    "dpo": (Dpo, Extras),
    "reinforcement": (Reinforcement, ReinforcementExtras),
    "verifier": (Verifier, VerifierExtras),
}


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
