"""What was measured: the accuracy of every question, read off the samples of all comparisons.

Questions are the same everywhere, so that any two cells are compared question by question; intervals are of the
bootstrap over questions (`service/benchmarks/statistics.py`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.jobs import State, report_file
from benchmarks.lab.policies import BEST, POLICIES, READINGS
from benchmarks.lab.training import MODELS, SFT
from service.benchmarks import statistics
from service.benchmarks.recipe import Task
from service.benchmarks.results import (
    Answered,
    Cell,
    Curve,
    Measured,
    Point,
    compact,
    compare_curves,
    points,
)

Rule = Callable[[Answered, int], float]

FIGURES: Mapping[str, Rule] = {
    "pass@1": lambda answered, _: answered.pass_at(1),
    "majority": Answered.majority_at,
    "pass@k": Answered.pass_at,
}
"""By what models are compared; the last two of so many samples."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The answers of one comparison: of every task, by question."""

    tasks: Sequence[tuple[Task, Mapping[int, list[Answered]]]]

    @classmethod
    def read(cls, job: Mapping[str, Any], file: Path) -> Samples:
        cells = {cell["samples"]: cell for cell in job["results"]}
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        several = len({line["task"] for line in lines}) > 1  # a task for every size: none is read off another
        found: dict[int, dict[int, list[Answered]]] = defaultdict(lambda: defaultdict(list))
        tasks: dict[int, Task] = {}
        for line in lines:
            sizes = (line["samples"],) if several else tuple(sorted(cells))
            cell = cells[sizes[-1]]  # what was asked for; the line has what was made of it
            tasks[line["task"]] = Task(cell["model"], cell["name"], cell["strategy"], sizes)
            found[line["task"]][line["index"]].append(compact(line))
        return cls([(tasks[number], dict(sorted(found[number].items()))) for number in sorted(tasks)])

    def curve(self) -> Curve:
        """What the strategy reached at its sizes."""
        return [point for task, answers in self.tasks for point in points(measured(task, answers))]

    def reading(self, name: str, rule: Rule, sizes: tuple[int, ...] | None = None) -> Curve:
        """What another strategy would make of the same samples, for all their sizes."""
        [(task, answers)] = self.tasks
        return [self.point(name, measured(task, answers), rule, k) for k in sizes or task.sizes]

    def point(self, name: str, found: Measured, rule: Rule, k: int) -> Point:
        accuracies = np.array([[rule(answered, k) for answered in given] for given in found.answers])
        return Point(found.cell(k, accuracies) | {"name": name}, accuracies.mean(axis=1))


def measured(task: Task, answers: Mapping[int, list[Answered]]) -> Measured:
    return Measured(task, task, list(answers.values()))


def same_questions(*curves: Curve) -> list[Curve]:
    """The curves over the questions that all have answered: those of a smaller comparison are the first of a larger."""
    least = min(len(point.by_question) for curve in curves for point in curve)
    return [[Point(point.cell, point.by_question[:least]) for point in curve] for curve in curves]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first less the second, question by question, with its 95 % interval."""

    first: Point
    second: Point
    mean: float
    ci: tuple[float, float]

    @property
    def positive(self) -> bool:
        return self.ci[0] > 0


def difference(first: Point, second: Point) -> Difference:
    [one], [other] = same_questions([first], [second])
    return Difference(first, second, *statistics.difference(one.by_question, other.by_question))


@dataclass(frozen=True, slots=True)
class Measurements:
    """All curves, by the names of policies, readings and models."""

    samples: Mapping[str, Samples]
    curves: Mapping[str, Curve]

    @classmethod
    def read(cls, state: State, folder: Path) -> Measurements:
        samples = {
            name: Samples.read(job, report_file(folder, name, "samples.jsonl"))
            for name in (*POLICIES, *MODELS)
            if (job := state[name].get("job")) is not None
        }
        curves = {name: found.curve() for name, found in samples.items()}
        read = {name: samples[how.of].reading(name, how.rule) for name, how in READINGS.items()}
        return cls(samples, curves | read)

    def at(self, name: str, size: int | None = None) -> Point:
        """A curve's point of a size, by default the largest."""
        return max(
            (point for point in self.curves[name] if size in (None, point.cell["samples"])),
            key=lambda point: point.cell["samples"],
        )

    def equal_tokens(self) -> Iterator[Cell]:
        """Every policy at every size with what it is compared with at as many tokens, where that was measured."""
        for name, policy in POLICIES.items():
            if policy.against is not None:
                yield from compare_curves(*same_questions(self.curves[name], self.curves[policy.against]))

    def figure(self, model: str, figure: str, k: int) -> Point:
        """One of `FIGURES` of a model, of k samples."""
        return self.samples[BEST if model == SFT else model].reading(model, FIGURES[figure], (k,))[0]

    def has(self, *models: str) -> bool:
        return all(model == SFT or model in self.samples for model in models)

    def most(self, model: str) -> int:
        """Samples of a question."""
        [(task, _)] = self.samples[BEST if model == SFT else model].tasks
        return task.size
