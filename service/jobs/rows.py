"""The lines of training files, read one by one, and what the rows of several methods share.

The service reads a file to refuse a bad one by its line, the worker to train on it; both read it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import invalid
from service.schema import Strict


class BadLine(ValueError):
    """A line that the method cannot use."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number}: {problem}")
        self.number = number


class TextPart(Strict):
    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    name: str
    arguments: str


class ToolCall(Strict):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(Strict):
    """A message of text. `weight` 0 leaves an assistant's message out of the loss."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = None

    @model_validator(mode="after")
    def says_something(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        if self.role != "assistant" and (self.tool_calls or self.weight is not None):
            raise ValueError("tool_calls and weight are of the assistant's messages")
        return self


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: Literal["function"]
    function: dict[str, Any]


Messages = Annotated[list[Message], Field(min_length=1)]


class QuestionRow(BaseModel):
    """A question, or a conversation that ends with one. `answer` is the right one; further keys are the grader's."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    question: Annotated[str, Field(min_length=1)] | None = None
    messages: Messages | None = None
    answer: str | None = None

    @model_validator(mode="after")
    def one_question(self) -> QuestionRow:
        if (self.question is None) == (self.messages is None):
            raise ValueError("needs a question, or messages, and not both")
        return self

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages that a model is sent."""
        if self.messages is None:
            return [{"role": "user", "content": self.question}]
        return [message.model_dump(exclude_none=True) for message in self.messages]


Check = Callable[[dict[str, Any]], None]


def read(path: Path, row: type[BaseModel], check: Check | None = None) -> Iterator[dict[str, Any]]:
    """Yield every line as the object it is; raise BadLine for one that is not a `row`, or that `check` refuses."""
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield parse(number, line, row, check)
    if number == 0:
        raise BadLine(1, "the file is empty")


def parse(number: int, line: bytes, row: type[BaseModel], check: Check | None) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
        row.model_validate(value)
        if check is not None:
            check(value)
    except orjson.JSONDecodeError as error:
        raise BadLine(number, f"is no JSON: {error}" if line.strip() else "is empty") from error
    except ValidationError as error:
        raise BadLine(number, invalid(error).message) from error
    except LookupError as error:
        raise BadLine(number, str(error)) from error
    assert isinstance(value, dict), "a row is an object"
    return value
