"""What each claim needs: stages of the lab, and its own, each one job of the server."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import chain

from benchmarks.claims.scale import Amounts, held_out, train_rows
from benchmarks.lab import stages as lab_stages
from benchmarks.lab.jobs import SEED, Lab, Request, Skipped, Stage
from benchmarks.lab.policies import BEST, benchmark
from benchmarks.lab.scale import QUESTIONS_A_STEP, Scale, Sizes
from benchmarks.lab.training import GRPO, HUMAN, ROUNDS, SECOND, conversation, reinforced, supervised, tune

SAMPLING_AT_ONCE = 4
"""Requests in flight, of 64 samples each."""
SMALL_SHARE = 0.35
"""Of the demo model's time, for as many tokens."""
EVALUATED = 10 / 3
"""Evaluations of a round of SFT, each of which only reads: a third of the time of training on as many rows."""
LEAST_FALL = 0.05
"""Of the validation loss, by which a round of SFT has to be better than all before it for another one to follow."""


class Claim(StrEnum):
    """What the command calls them."""

    COMPUTE = "compute"
    SIZE = "size"
    REINFORCEMENT = "reinforcement"
    LOOP = "loop"
    BOTH = "both"


EVERY = tuple(Claim)
BASE_SEARCH = "base, best of N by equations"
AFTER_SFT = ("sft", "sft, merged", BEST)
LAB: Mapping[Claim, Sequence[str]] = {
    Claim.COMPUTE: (),
    Claim.SIZE: (),
    Claim.REINFORCEMENT: (*AFTER_SFT, "grpo", GRPO),
    Claim.LOOP: (
        "weak",
        *(f"{each.name}: {what}" for each in ROUNDS for what in ("answers", "hints", "SFT", "DPO")),
        SECOND,
        "human",
        HUMAN,
    ),
    Claim.BOTH: AFTER_SFT,
}
"""Stages of the lab that a claim reads."""


def stages(scale: Scale, amounts: Amounts, claims: Sequence[Claim]) -> list[Stage]:
    """On the demo model: what these claims need of the lab, in its order, and what is theirs."""
    needed = {name for claim in claims for name in LAB[claim]}
    return [stage for stage in lab_stages.stages(scale) if stage.name in needed] + [*own(scale, amounts, claims)]


def own(scale: Scale, amounts: Amounts, claims: Sequence[Claim]) -> Iterator[Stage]:
    if Claim.COMPUTE in claims or Claim.SIZE in claims:
        yield from LARGE.stages(scale, amounts, greedy=Claim.SIZE in claims)
    if Claim.REINFORCEMENT in claims:
        yield from chain.from_iterable(budget(steps, scale, amounts) for steps in amounts.rewarded_steps)
    if Claim.BOTH in claims:
        yield base_search(scale, amounts)


def small_stages(scale: Scale, amounts: Amounts) -> list[Stage]:
    """On the small model, which has a server of its own."""
    return [*SMALL.stages(scale, amounts, greedy=False)]


# A size of model


@dataclass(frozen=True, slots=True)
class Size:
    """A size of model, trained until it no longer learns, and then sampled. `time`: as a share of the demo model's."""

    name: str
    time: float

    @property
    def samples(self) -> str:
        return f"{self.name}: samples"

    @property
    def greedy(self) -> str:
        return f"{self.name}: greedy"

    def round(self, number: int) -> str:
        return f"{self.name}: SFT {number}"

    def steps(self, amounts: Amounts) -> int:
        return int(getattr(amounts, f"{self.name}_steps"))

    def rate(self, amounts: Amounts) -> float:
        return float(getattr(amounts, f"{self.name}_rate"))

    def stages(self, scale: Scale, amounts: Amounts, *, greedy: bool) -> Iterator[Stage]:
        sequences = 16 * self.steps(amounts) + EVALUATED * amounts.held_out
        minutes = 0.5 + sequences * lab_stages.SEQUENCE * self.time
        for number in range(1, amounts.rounds + 1):
            yield Stage(self.round(number), "SFT of all weights", minutes, partial(self.train, number, amounts))
        answers = scale.tests * max(amounts.samples)
        about = f"{scale.tests} questions, {max(amounts.samples)} samples"
        yield Stage(self.samples, about, self.minutes(answers), partial(self.sample, amounts))
        if greedy:
            about = f"{scale.tests} questions, one answer at temperature 0"
            yield Stage(self.greedy, about, self.minutes(scale.tests), partial(self.answer, amounts))

    def minutes(self, answers: float) -> float:
        return lab_stages.START + lab_stages.sampled(answers) * self.time

    def train(self, number: int, amounts: Amounts, lab: Lab) -> Request | Skipped:
        """All weights, on the same rows in every round and for every size; each round in an order of its own."""
        if converged(ends := self.ends(lab)):
            return Skipped(f"the validation loss was {ends[-1]:.4f} after {min(ends[:-1]):.4f}")
        rows = [conversation(problem) for problem in train_rows(lab.scale, amounts)["sft"]]
        parent = lab.model(self.round(number - 1)) if number > 1 else lab.base()
        steps, rate = self.steps(amounts), self.rate(amounts)
        made = tune(
            lab,
            f"{self.name} sft {number}",
            parent,
            rows,
            supervised(learning_rate_multiplier=rate),
            weights="full",
            max_steps=steps,
        )
        held = lab.upload("held out", [conversation(problem) for problem in held_out(lab.scale, amounts)])
        return Request(made.path, {**made.body, "validation_file": held, "seed": SEED + number})

    def losses(self, lab: Lab) -> dict[str, list[list[float]]]:
        """Of every round that was done: step and validation loss."""
        rounds = [name for name in lab.state if name.startswith(f"{self.name}: SFT ") and lab.job(name)]
        return {name: validation_losses(lab, name) for name in rounds}

    def ends(self, lab: Lab) -> list[float]:
        return [found[-1][1] for found in self.losses(lab).values()]

    def best(self, lab: Lab) -> str:
        """What the round with the lowest loss at its end has trained; the losses are kept for the page."""
        losses = self.losses(lab)
        lab.keep(f"{self.name}: losses", losses)
        return lab.model(min(losses, key=lambda name: losses[name][-1][1]))

    def sample(self, amounts: Amounts, lab: Lab) -> Request:
        return search(lab, self.samples, self.best(lab), amounts.samples, SAMPLING_AT_ONCE)

    def answer(self, amounts: Amounts, lab: Lab) -> Request:
        strategy = {"type": "self_consistency", "name": self.greedy, "samples": [1]}
        return benchmark(lab, self.greedy, self.best(lab), strategy, lab.scale.tests, temperature=0.0)


LARGE, SMALL = Size("large", 1.0), Size("small", SMALL_SHARE)


def converged(ends: Sequence[float]) -> bool:
    """Whether the last of the losses is hardly below the best before it."""
    return len(ends) > 1 and ends[-1] > (1 - LEAST_FALL) * min(ends[:-1])


def validation_losses(lab: Lab, name: str) -> list[list[float]]:
    """Step and loss, as the job's table of metrics has them."""
    job = lab.job(name) or {}
    [file] = job["result_files"]
    text = lab.client.get(f"/files/{file}/content").raise_for_status().text
    rows = csv.DictReader(text.splitlines())
    return [[float(row["step"]), float(row["valid_loss"])] for row in rows if row.get("valid_loss")]


def search(lab: Lab, name: str, model: str, sizes: Sizes, at_once: int) -> Request:
    """Samples that the scorer `equations` has an opinion of; all strategies are read off them."""
    strategy = {"type": "best_of_n", "scorer": "equations", "name": name, "samples": [*sizes]}
    return benchmark(lab, name, model, strategy, lab.scale.tests, at_once)


# GRPO at several budgets, and the base model's search


def rewarded(steps: int) -> str:
    """The stage that trains."""
    return f"grpo {steps} steps"


def after(steps: int) -> str:
    """The model, and the stage that measures it."""
    return f"SFT, GRPO of {steps} steps"


def budget(steps: int, scale: Scale, amounts: Amounts) -> Iterator[Stage]:
    """A training of its own, as the lab's, on the first of the same questions."""

    def train(lab: Lab) -> Request:
        questions = train_rows(lab.scale, amounts)["grpo"][: steps * QUESTIONS_A_STEP]
        return reinforced(lab, rewarded(steps), questions)

    def measure(lab: Lab) -> Request:
        strategy = {"type": "self_consistency", "name": after(steps), "samples": [scale.grpo_samples]}
        return benchmark(lab, after(steps), lab.model(rewarded(steps)), strategy, scale.tests)

    sequences = 1.5 * steps * QUESTIONS_A_STEP * scale.group
    yield lab_stages.trained(rewarded(steps), "GRPO from SFT", train, sequences)
    minutes = lab_stages.started(scale.tests * scale.grpo_samples)
    yield Stage(after(steps), f"{scale.tests} questions, {scale.grpo_samples} samples", minutes, measure)


def base_search(scale: Scale, amounts: Amounts) -> Stage:
    def create(lab: Lab) -> Request:
        return search(lab, BASE_SEARCH, lab.base(), (1, amounts.base_samples), SAMPLING_AT_ONCE)

    minutes = lab_stages.sampled(scale.tests * amounts.base_samples, tokens=79)
    return Stage(BASE_SEARCH, f"{scale.tests} questions, {amounts.base_samples} samples", minutes, create)
