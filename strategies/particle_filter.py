"""Particle filtering over steps (Puri et al., 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of
LLMs using Particle-Based Monte Carlo Methods", arXiv:2502.01618).

The target is the paper's: a path of steps 1 … T has the probability p(path) · Π_t odds(r_t), where r_t is the score of
its prefix up to step t, odds(r) = r / (1 - r), to the power of 1 / temperature. Deviation: resampling is systematic and
happens when the effective sample size falls under `threshold` of the particles, because odds of a saturated scorer
would otherwise collapse them onto one ancestor at every step. Until then the weights are carried on (adaptive
resampling; Del Moral, Doucet and Jasra, 2012), so that the target stays the same; a finished particle keeps its weight.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from strategies.knobs import knob
from strategies.seeds import derive
from strategies.select import score
from strategies.session import Session, Strategy
from strategies.steps import (
    UNSUPPORTED,
    Select,
    Step,
    Watch,
    conclude,
    grow,
    root,
    score_paths,
    so_far,
    until_spent,
)
from strategies.stopping import Never, Stop, check_scorer, check_search
from strategies.types import Aggregate, Candidate, Event, Plan, Scorer

NOTHING: Mapping[int, float] = {}
CLIP = 1e-7  # keeps the odds of a certain score finite


@dataclass(frozen=True, slots=True)
class ParticleFilter(Strategy):
    """Grow a population of paths and move its weight to where the scorer sees promise.

    1. Sample the first step of N particles.
    2. Weigh them by the odds of their scores; resample all of them when the weight rests on too few.
    3. Sample one next step of every unfinished particle, and go back to 2, until all are finished.

    Under a rule (`stop`) it ends as soon as the finished paths decide it (strategies/steps.py).
    """

    type: ClassVar[str] = "particle_filter"
    summary: ClassVar[str] = "Grow a population of answers step by step, resampled by the odds of their scores."
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.01618"
    cost: ClassVar[str] = "particles × answer, a request a particle and round; plus a score a step"
    unsupported: ClassVar[frozenset[str]] = UNSUPPORTED
    text_only: ClassVar[bool] = True
    temperature_default: ClassVar[float | None] = 0.8
    size_knob: ClassVar[str | None] = "particles"

    particles: int = knob(16, "Particles: N in the paper.", ge=1, le=256)
    max_steps: int = knob(40, "Most steps of an answer.", ge=1, le=256)
    step: Step = knob(Step(), "Where a step ends.")
    scorer: str | dict[str, Any] = knob("generative", "Who scores the steps.")
    aggregate: Aggregate | None = knob(None, "How the scores of the steps become one; unset: as the scorer has it.")
    temperature: float = knob(1.0, "Of the softmax over the particles; larger keeps more of them.", ge=0.01, le=100)
    threshold: float = knob(0.5, "Share of effective particles under which all are resampled.", ge=0, le=1)
    select: Select = knob("best", "Highest score, or highest sum of scores of an answer.")
    stop: Stop = knob(Never(), "When to end the search before its time: `none` or `verified`.")

    def __post_init__(self) -> None:
        check_search(self.stop, self.particles)

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        check_scorer(self.stop, scorer)
        judgements = self.particles * self.max_steps
        tokens = self.particles * max_tokens
        return Plan(self.max_steps, self.particles, tokens, scorer.tokens(judgements) if scorer else 0)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        random = Random(derive(session.seed, self.type))
        particles: list[Candidate] = []
        carried: Mapping[int, float] = {}  # log-weights, by particle, since all were resampled
        with until_spent(session, lambda: partition(particles)[0]):
            for depth in range(self.max_steps):
                particles = await self.move(session, particles, depth)
                if session.stopped or not any(particle.open for particle in particles):
                    break
                found = await so_far(session, *partition(particles), self.select, self.stop, self.may_finish(particles))
                if session.stopped:
                    break
                yield found
                if self.degenerate(self.weights(particles, carried)):
                    particles = self.resample(session, particles, random, carried)
                    carried = {particle.id: 0.0 for particle in particles}
                else:
                    carried = self.log_weights(particles, carried)
        yield await conclude(session, *partition(particles), self.select, self.aggregate)

    def may_finish(self, particles: Sequence[Candidate]) -> int:
        """The most particles that may yet finish: all of them where finished ones, too, may be lost to resampling."""
        return self.particles if self.threshold else len(partition(particles)[1])

    async def move(self, session: Session, particles: Sequence[Candidate], depth: int) -> list[Candidate]:
        """Every unfinished particle one step further, scored; finished ones stay as they are."""
        step = None if depth == self.max_steps - 1 else self.step
        finished, going = partition(particles)
        watch = Watch(session, self.stop, self.select, self.aggregate, finished)
        if not particles:
            [first] = await grow(session, [root()], self.particles, [step], watch)
            return await self.weigh(session, first)
        children = [child for family in await grow(session, going, 1, [step] * len(going), watch) for child in family]
        return partition(particles)[0] + await self.weigh(session, children)

    async def weigh(self, session: Session, particles: Sequence[Candidate]) -> list[Candidate]:
        scored = await score_paths(session, particles, self.aggregate)
        session.remember(scored)
        return scored

    def resample(
        self, session: Session, particles: Sequence[Candidate], random: Random, carried: Mapping[int, float] = NOTHING
    ) -> list[Candidate]:
        """As many particles, drawn by weight when too few are effective; a clone is a particle of its own."""
        weights = self.weights(particles, carried)
        if not self.degenerate(weights):
            return list(particles)
        chosen, seen = [], set()
        for index in systematic(weights, random.random()):
            particle = particles[index]
            chosen.append(session.clone(particle) if index in seen else particle)
            seen.add(index)
        return chosen

    def degenerate(self, weights: Sequence[float]) -> bool:
        """Whether the weight rests on too few particles."""
        return effective(weights) < self.threshold * len(weights)

    def weights(self, particles: Sequence[Candidate], carried: Mapping[int, float] = NOTHING) -> list[float]:
        """The normalised weights: softmax of the log-weights."""
        logs = self.log_weights(particles, carried).values()
        peak = max(logs)
        odds = [math.exp(value - peak) for value in logs]
        return [value / sum(odds) for value in odds]

    def log_weights(self, particles: Sequence[Candidate], carried: Mapping[int, float]) -> dict[int, float]:
        """By particle: what its parent carried, and the log-odds of its new step over the temperature; one that has not
        moved keeps what it carried."""
        return {particle.id: self.log_weight(particle, carried) for particle in particles}

    def log_weight(self, particle: Candidate, carried: Mapping[int, float]) -> float:
        if particle.id in carried:
            return carried[particle.id]
        before = 0.0 if particle.parent is None else carried.get(particle.parent, 0.0)
        return before + logit(score(particle)) / self.temperature


def partition(particles: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """The finished particles and the others."""
    return [p for p in particles if not p.open], [p for p in particles if p.open]


def logit(probability: float) -> float:
    clipped = min(max(probability, CLIP), 1 - CLIP)
    return math.log(clipped / (1 - clipped))


def effective(weights: Sequence[float]) -> float:
    """The effective sample size 1 / sum w_i^2: all of them when the weights are equal, 1 when one has it all."""
    return 1 / sum(weight * weight for weight in weights)


def systematic(weights: Sequence[float], offset: float) -> list[int]:
    """Indices drawn at the n equidistant points (i + offset) / n of the cumulated weights (Kitagawa, 1996)."""
    chosen, reached, index = [], weights[0], 0
    for i in range(len(weights)):
        point = (i + offset) / len(weights)
        while point >= reached and index < len(weights) - 1:
            index += 1
            reached += weights[index]
        chosen.append(index)
    return chosen
