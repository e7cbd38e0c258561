"""A process reward model: step labels by rollouts, from questions with answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from service.jobs.methods.base import Asked, Numbers, Row, Sampling, TrainingMethod
from service.jobs.rows import QuestionRow
from strategies.steps import Step

SOLUTIONS, ROLLOUTS = 8, 4


class VerifierRow(QuestionRow):
    answer: Annotated[str, Field(min_length=1)]


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


def numbers(asked: Asked) -> Numbers:
    return {
        "samples": asked.extras.samples or SOLUTIONS,
        "rollouts": asked.extras.rollouts or ROLLOUTS,
        "max_tokens": asked.max_tokens,
        "temperature": asked.extras.temperature or 0.8,
    }


def as_conversation(row: Row) -> Row:
    return row | {"messages": VerifierRow.model_validate(row).prompt}


def no_tools(row: Row) -> None:
    """Further keys of a row mean nothing."""


VERIFIER = TrainingMethod(
    "verifier",
    VerifierRow,
    "training.verifier:train",
    extras=VerifierExtras,
    numbers=numbers,
    prepare=as_conversation,
    tools=no_tools,
    scorer=True,
    rollouts="model",
    bfloat16=True,
)
