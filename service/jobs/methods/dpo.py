"""Direct preference optimization: pairs of a preferred and another answer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from service.jobs.methods.base import Asked, Auto, Extras, Hyperparameters, Numbers, Row, TrainingMethod, choose
from service.jobs.rows import Message, Messages, Tool
from service.schema import Strict


class DpoInput(Strict):
    messages: Messages
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None


class DpoRow(Strict):
    input: DpoInput
    preferred_output: Messages
    non_preferred_output: Messages

    @field_validator("preferred_output", "non_preferred_output")
    @classmethod
    def an_answer(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role != "assistant":
            raise ValueError("must end with the assistant's message")
        return messages


class DpoHyperparameters(Hyperparameters):
    """`beta` holds the policy near its reference."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class DpoExtras(Extras):
    """`rpo_alpha` is the weight of SFT's loss on the preferred answers, beside DPO's; None: DPO's alone."""

    rpo_alpha: Annotated[float, Field(ge=0, le=10)] | None = None


def numbers(asked: Asked) -> Numbers:
    return {"beta": choose(asked.hyperparameters.beta, 0.1), "rpo_alpha": asked.extras.rpo_alpha}


def tools(row: Row) -> Any:
    return row["input"].get("tools")


DPO = TrainingMethod(
    "dpo",
    DpoRow,
    "training.dpo:train",
    hyperparameters=DpoHyperparameters,
    extras=DpoExtras,
    numbers=numbers,
    tools=tools,
    learning_rate=0.1,  # it begins with a model that can do the task
)
