"""GRPO: answers that are sampled while it trains, and a grader."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.jobs.methods.base import Asked, Auto, Count, Hyperparameters, Numbers, Sampling, TrainingMethod, choose
from service.jobs.rows import Message, Messages, Tool

GROUP = 8


class ReinforcementRow(BaseModel):
    """`messages` and `tools` are reserved; every other key is the grader's, as `item.<key>`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    messages: Messages
    tools: list[Tool] | None = None

    @field_validator("messages")
    @classmethod
    def a_question(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role == "assistant":
            raise ValueError("must not end with the assistant's message, which is to be sampled")
        return messages


class ReinforcementHyperparameters(Hyperparameters):
    """`batch_size` counts questions a step.

    `compute_multiplier` multiplies the samples of a question; `eval_interval` is in steps, `eval_samples` are the
    samples of a question in an evaluation.
    """

    compute_multiplier: Auto | Annotated[float, Field(gt=0.00001, le=10)] = "auto"
    eval_interval: Auto | Count = "auto"
    eval_samples: Auto | Count = "auto"
    reasoning_effort: Literal["default"] = "default"


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


def numbers(asked: Asked) -> Numbers:
    told, extras, validated = asked.hyperparameters, asked.extras, asked.eval_interval is not None
    multiplier = choose(told.compute_multiplier, 1.0)
    return {
        "compute_multiplier": multiplier,
        "samples": max(2, round((extras.samples or GROUP) * multiplier)),
        "max_tokens": asked.max_tokens,
        "temperature": extras.temperature or 1.0,
        "publish_every": extras.publish_every or 1,
        "kl": extras.kl or 0.0,
        "eval_interval": choose(told.eval_interval, asked.eval_interval or 0) if validated else None,
        "eval_samples": choose(told.eval_samples, 1) if validated else None,
    }


REINFORCEMENT = TrainingMethod(
    "reinforcement",
    ReinforcementRow,
    "training.grpo:train",
    hyperparameters=ReinforcementHyperparameters,
    extras=ReinforcementExtras,
    numbers=numbers,
    graded=True,
    rollouts="adapter",
    batch=4,
    whole_batches=True,  # TRL leaves the incomplete last one out
    learning_rate=0.1,
)
