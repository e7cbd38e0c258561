"""Supervised fine-tuning: conversations, with the loss on what the assistant says."""

from __future__ import annotations

from pydantic import field_validator

from service.jobs.methods.base import TrainingMethod
from service.jobs.rows import Message, Messages, Tool
from service.schema import Strict


class SupervisedRow(Strict):
    messages: Messages
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("messages")
    @classmethod
    def teaches(cls, messages: list[Message]) -> list[Message]:
        if not any(message.role == "assistant" and message.weight != 0 for message in messages):
            raise ValueError("no message of the assistant to learn from")
        return messages


SUPERVISED = TrainingMethod("supervised", SupervisedRow, "training.sft:train", epochs=3, bfloat16=True)
