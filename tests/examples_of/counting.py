"""A method of training that only counts its rows: the record, and the function that would train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from service.jobs.methods.base import Asked, Auto, Hyperparameters, Numbers, TrainingMethod, choose
from service.schema import Strict

if TYPE_CHECKING:
    from training.run import TrainingRun
    from training.task import Done


class CountingRow(Strict):
    word: Annotated[str, Field(min_length=1)]


class CountingHyperparameters(Hyperparameters):
    """`beta` multiplies the count."""

    beta: Literal["auto"] | Annotated[float, Field(gt=0, le=2)] = "auto"


def numbers(asked: Asked) -> Numbers:
    beta: Auto | float = asked.hyperparameters.beta
    return {"beta": choose(beta, 0.5)}


COUNTING = TrainingMethod(
    "counting",
    CountingRow,
    "tests.examples_of.counting:train",
    hyperparameters=CountingHyperparameters,
    numbers=numbers,
    epochs=2,
)


def train(run: TrainingRun) -> Done:
    from training.task import Done

    rows, _ = run.rows()
    recipe = run.recipe(len(rows))
    return Done({"fine_tuned_model": run.task.name(), "trained_tokens": int(len(rows) * (recipe.beta or 0) * 100)})
