"""What a method of training is: one record, that says all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from service.schema import Strict

T = TypeVar("T")
Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Temperature = Annotated[float, Field(gt=0, le=2)]
Row = dict[str, Any]
Numbers = Mapping[str, Any]

MAX_TOKENS = 512
"""Of a sampled answer, where the job does not say."""


class Hyperparameters(Strict):
    """Those of every method, and all of SFT's; also the deprecated top-level `hyperparameters`."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Positive = "auto"


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


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job asks for, beside what the model and the data allow: the context in tokens, and every how many steps
    is evaluated, which is None without a validation file."""

    hyperparameters: Any
    extras: Any
    context: int
    eval_interval: int | None

    @property
    def max_tokens(self) -> int:
        return min(self.extras.max_tokens or MAX_TOKENS, self.context - 1)


def no_numbers(asked: Asked) -> Numbers:
    return {}


def as_it_is(row: Row) -> Row:
    return row


def tools_of(row: Row) -> Any:
    return row.get("tools")


@dataclass(frozen=True, slots=True)
class TrainingMethod:
    """A method of training: what a job may say, what its file holds, its defaults, and what trains.

    `train` is a function of a `training.run.TrainingRun`, named and not imported: only the worker has torch. `prepare`
    makes of a row what the function reads, `tools` finds the tools in one. `numbers` are those that only this method
    has, as fields of `training.recipe.Recipe`. `rollouts`: what it samples while it trains, an adapter of the engine's
    or the model itself. `learning_rate` is a part of SFT's. `bfloat16`: whether it may train in it on a CPU.
    """

    name: str
    row: type[BaseModel]
    train: str
    hyperparameters: type[Hyperparameters] = Hyperparameters
    extras: type[Extras] = Extras
    numbers: Callable[[Asked], Numbers] = no_numbers
    prepare: Callable[[Row], Row] = as_it_is
    tools: Callable[[Row], Any] = tools_of
    graded: bool = False  # whether it takes a grader, and needs one
    scorer: bool = False  # whether what comes of it is a scorer
    rollouts: Literal["adapter", "model"] | None = None
    batch: int = 16
    epochs: int = 1
    whole_batches: bool = False  # whether an epoch's incomplete last batch is left out
    learning_rate: float = 1.0
    bfloat16: bool = False


def choose(value: Auto | T, otherwise: T) -> T:
    return otherwise if isinstance(value, str) else value
