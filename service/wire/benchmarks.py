"""The body of POST /v1/benchmarks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from service.schema import Strict
from service.wire.chat import AnswerSpec, Message

Size = Annotated[int, Field(ge=1)]
Models = Annotated[list[str], Field(min_length=1)]


class BenchmarkRequest(Strict):
    """Which models and strategies, on which questions, with how much compute.

    `samples` are the sizes that every strategy runs at, `budgets` the tokens that every request may generate; a
    strategy that states its own size, or its own list of either, keeps it. `seconds` is the most that it may run: it
    then ends with the questions that every strategy has answered. `dataset`, `strategies` and `grader` are checked by
    what they name.
    """

    name: str | None = Field(None, min_length=1, max_length=200)
    model: str | Models | None = None
    dataset: dict[str, Any]
    strategies: list[str | dict[str, Any]] = Field(min_length=1, max_length=32)
    samples: list[Size] | None = Field(None, min_length=1, max_length=32)
    budgets: list[Size] | None = Field(None, min_length=1, max_length=32)
    seeds: int | list[int] = 1
    seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    concurrency: int = Field(4, ge=1, le=64)
    messages: list[Message] | None = Field(None, min_length=1)
    sampling: dict[str, Any] = Field(default_factory=dict)
    answer: AnswerSpec | None = None
    grader: dict[str, Any] | None = None
    pass_threshold: float = 0.5
    reuse: bool = True
    dry_run: bool = False

    @field_validator("seeds")
    @classmethod
    def some(cls, seeds: int | list[int]) -> int | list[int]:
        if isinstance(seeds, int) and not 1 <= seeds <= 64:
            raise ValueError("must be from 1 to 64, or a list of seeds")
        if isinstance(seeds, list) and not 1 <= len(set(seeds)) == len(seeds) <= 64:
            raise ValueError("must be from 1 to 64 different seeds")
        return seeds

    @model_validator(mode="after")
    def one_axis(self) -> BenchmarkRequest:
        if self.samples and self.budgets:
            raise ValueError("`samples` and `budgets` are two ways to say how much: send one of them")
        return self

    @property
    def models(self) -> list[str | None]:
        return [*self.model] if isinstance(self.model, list) else [self.model]

    @property
    def seed_list(self) -> list[int]:
        return self.seeds if isinstance(self.seeds, list) else list(range(self.seeds))
