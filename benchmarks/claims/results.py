"""What the stages have measured, by claim; None where a claim's stages are not done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.curves import (
    CHOOSING,
    MAJORITY,
    STRATEGIES,
    Gap,
    Growth,
    Meeting,
    Slope,
    Strategy,
    Track,
    at_most,
    growth,
    interaction,
    meeting,
    pass_at_1,
    slope,
    track,
)
from benchmarks.claims.flops import Shape
from benchmarks.claims.scale import Amounts
from benchmarks.claims.stages import BASE_SEARCH, LARGE, SMALL, Size, after
from benchmarks.lab.jobs import State, report_file
from benchmarks.lab.measured import Difference, Samples, difference
from benchmarks.lab.policies import BEST as LAB_BEST
from benchmarks.lab.scale import Scale
from benchmarks.lab.training import GRPO, HUMAN, SECOND
from service.benchmarks import statistics
from service.benchmarks.results import Answered, Point
from service.benchmarks.statistics import Floats

TEN = 10.0
"""The multiple of inference compute that is said to be worth a model of three times the size."""


@dataclass(frozen=True, slots=True)
class Results:
    """The lab's folder, and in it that of the small model's server."""

    folder: Path
    state: State
    small: State

    def samples(self, name: str) -> Samples | None:
        """Those of a stage of the demo model's server."""
        return samples_in(self.folder, self.state, name)

    def tracks(self, size: Size) -> Mapping[str, Track] | None:
        folder, state = (self.folder, self.state) if size is LARGE else (small_folder(self.folder), self.small)
        found = samples_in(folder, state, size.samples)
        if found is None:
            return None
        return {name: track(found, strategy, self.shape(size)) for name, strategy in STRATEGIES.items()}

    def shape(self, size: Size) -> Shape:
        return Shape(**self.state["claims"]["shapes"][size.name])

    def losses(self, size: Size) -> Mapping[str, Sequence[Sequence[float]]]:
        found: Mapping[str, Sequence[Sequence[float]]] = (self.state if size is LARGE else self.small)[
            f"{size.name}: losses"
        ]
        return found


def small_folder(folder: Path) -> Path:
    return folder / "small"


def samples_in(folder: Path, state: State, name: str) -> Samples | None:
    job: Mapping[str, Any] | None = state.get(name, {}).get("job")
    file = report_file(folder, name, "samples.jsonl")
    return Samples.read(job, file) if job is not None and file.exists() else None


# More compute


def compute(results: Results) -> Mapping[str, tuple[Track, Growth]] | None:
    """Of every strategy of the large model."""
    found = results.tracks(LARGE)
    return None if found is None else {name: (each, growth(each)) for name, each in found.items()}


# A smaller model


@dataclass(frozen=True, slots=True)
class Against:
    """A strategy of the small model against an answer of the large one: at which multiple of the compute of its own
    single answer it meets it (`own`), of that of the large one's (`other`), and how it does at ten times its own, or
    less where it never spends so much (`spent`)."""

    wanted: float
    own: Meeting
    other: Meeting
    spent: float
    gap: Gap


@dataclass(frozen=True, slots=True)
class Sizes:
    """`greedy` and `curve` have the strategies of the small model that choose without knowing the answer, against the
    large one's greedy answer, and against the same strategy of the large one at every size."""

    large: Mapping[str, Track]
    small: Mapping[str, Track]
    one: Track
    greedy: Mapping[str, Against]
    curve: Mapping[str, Mapping[int, Against]]


def sizes(results: Results) -> Sizes | None:
    large, small = results.tracks(LARGE), results.tracks(SMALL)
    answered = results.samples(LARGE.greedy)
    if large is None or small is None or answered is None:
        return None
    one = track(answered, STRATEGIES[MAJORITY], results.shape(LARGE))
    unit = single(small)
    return Sizes(
        large,
        small,
        one,
        {name: against(small[name], one, unit) for name in CHOOSING},
        {
            name: {size: against(small[name], large[name].column(size), unit) for size in large[name].sizes}
            for name in CHOOSING
        },
    )


def single(tracks: Mapping[str, Track]) -> Floats:
    """The compute of one sampled answer, of every question."""
    flops: Floats = next(each for each in tracks.values() if each.sizes[0] == 1).flops[:, 0]
    return flops


def against(found: Track, wanted: Track, unit: Floats) -> Against:
    """`wanted` is of one size."""
    goal, cost = wanted.right[:, 0], wanted.flops[:, 0]
    return Against(
        float(goal.mean()),
        meeting(found, goal, unit),
        meeting(found, goal, cost),
        *at_most(found, TEN, unit, goal),
    )


# Training


@dataclass(frozen=True, slots=True)
class Budgets:
    """`right` has pass@1 of every question, after so many steps of GRPO; `before` that of SFT alone."""

    steps: Sequence[int]
    right: Floats
    before: Floats
    found: Slope

    def gain(self, place: int) -> Gap:
        return Gap(*statistics.difference(self.right[:, place], self.before))


def budgets(results: Results, scale: Scale, amounts: Amounts) -> Budgets | None:
    names = {scale.grpo_steps: GRPO} | {steps: after(steps) for steps in amounts.rewarded_steps}
    steps = sorted(names)
    read = [results.samples(names[each]) for each in steps]
    before = results.samples(LAB_BEST)
    if before is None or None in read:
        return None
    right = np.column_stack([pass_at_1(each) for each in read if each is not None])
    return Budgets(steps, right, pass_at_1(before), slope([float(each) for each in steps], right))


def loop(results: Results) -> Difference | None:
    """Two rounds of the loop less SFT on as many human-like solutions, at pass@1."""
    own, human = results.samples(SECOND), results.samples(HUMAN)
    if own is None or human is None:
        return None
    return difference(first_point(own), first_point(human))


def first_point(samples: Samples) -> Point:
    return samples.reading("pass@1", lambda answered, _: answered.pass_at(1), (1,))[0]


# Search and training together


@dataclass(frozen=True, slots=True)
class Combined:
    """Rates of the base, with the search, with training, and with both, and what both have beyond the sum."""

    rates: tuple[float, float, float, float]
    gap: Gap


def combined(results: Results, strategy: Strategy, samples: int) -> Combined | None:
    """One answer and so many, of the base and of the SFT model."""
    read = [results.samples(name) for name in (BASE_SEARCH, LAB_BEST)]
    if None in read:
        return None

    def right(found: Samples, of: Strategy, size: int) -> Floats:
        [(_, answers)] = found.tasks
        return np.array([of.right(answered, size) for given in answers.values() for answered in given])

    one = Strategy(lambda answered, _: Answered.pass_at(answered, 1), lambda _, size: float(size))
    base, search, training, both = (
        right(found, of, size) for found in read if found is not None for of, size in ((one, 1), (strategy, samples))
    )
    rates = (float(base.mean()), float(search.mean()), float(training.mean()), float(both.mean()))
    return Combined(rates, interaction(base, search, training, both))
