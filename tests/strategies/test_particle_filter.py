"""Particle filtering against closed forms and straightforward references."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.particle_filter import CLIP, ParticleFilter, effective, logit, systematic
from strategies.scorers.generative import Generative
from strategies.session import Session
from strategies.types import Candidate
from tests.strategies.support import candidate, engine, finished, grown, reviews, says, session, turn

WEIGHTS = st.lists(st.floats(1e-6, 1), min_size=1, max_size=30).map(lambda ws: [w / sum(ws) for w in ws])


def particles(*scores: float, finish: str = "step") -> list[Candidate]:
    return [candidate(i, text=f"{i}\n\n", finish_reason=finish, score=score) for i, score in enumerate(scores)]


# Weights


def test_weights_are_the_odds_of_the_scores() -> None:
    odds = [0.5 / 0.5, 0.8 / 0.2, 0.2 / 0.8]
    weights = ParticleFilter().weights(particles(0.5, 0.8, 0.2))
    assert weights == pytest.approx([value / sum(odds) for value in odds])


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20), st.floats(0.1, 10))
def test_a_temperature_is_the_exponent_of_the_odds(scores: list[float], temperature: float) -> None:
    powers = [(r / (1 - r)) ** (1 / temperature) for r in scores]
    weights = ParticleFilter(temperature=temperature).weights(particles(*scores))
    assert weights == pytest.approx([power / sum(powers) for power in powers])


def test_certain_scores_are_clipped() -> None:
    assert logit(1.0) == logit(2.0) == pytest.approx(math.log((1 - CLIP) / CLIP))
    assert logit(0.0) == logit(-1.0) == pytest.approx(-logit(1.0))
    assert ParticleFilter().weights(particles(1.0, 1.0, 0.0)) == pytest.approx([0.5, 0.5, 0.0])


def test_weights_are_carried_where_nothing_was_resampled() -> None:
    """Scores (0.6, 0.4), then (0.5, 0.5): the odds multiply to 1.5 and 2/3."""
    strategy = ParticleFilter()
    first = particles(0.6, 0.4)
    carried = strategy.log_weights(first, {})
    second = [replace(particle, id=particle.id + 2, parent=particle.id, score=0.5) for particle in first]
    assert strategy.weights(second, carried) == pytest.approx([9 / 13, 4 / 13])
    assert strategy.weights(first, carried) == pytest.approx([9 / 13, 4 / 13]), "what has not moved keeps its weight"


STEPS = {"": {"a": 0.7, "b": 0.3}, "a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.2, "b": 0.8}, "ab": {"a": 0.9, "b": 0.1}}
"""The model: what follows a prefix, and how probably. Nothing follows `aa`, `ba`, `bb`, `aba` and `abb`."""
SCORES = {"a": 0.4, "b": 0.6, "aa": 0.7, "ab": 0.5, "ba": 0.3, "bb": 0.8, "aba": 0.9, "abb": 0.2}


def target() -> dict[str, float]:
    """The exact distribution over whole paths: p(path) times the odds of the scores of all its prefixes."""
    found = {}
    for path in (path for path in SCORES if path not in STEPS):
        probability = 1.0
        for i in range(len(path)):
            r = SCORES[path[: i + 1]]
            probability *= STEPS[path[:i]][path[i]] * r / (1 - r)
        found[path] = probability
    return {path: weight / sum(found.values()) for path, weight in found.items()}


def filtered(threshold: float, count: int, random: Random) -> dict[str, float]:
    """What so many particles say, moved by the model and weighed by the strategy."""
    strategy, on = ParticleFilter(threshold=threshold), session(says(""))
    population = [candidate(-1 - i, text="", score=0.5) for i in range(count)]
    on.drawn, carried = 1, {particle.id: 0.0 for particle in population}
    for depth in range(3):
        population = [moved(on, particle, random) for particle in population]
        if depth < 2 and strategy.degenerate(strategy.weights(population, carried)):
            population = strategy.resample(on, population, random, carried)
            carried = {particle.id: 0.0 for particle in population}
        else:
            carried = strategy.log_weights(population, carried)
    shares = dict.fromkeys(target(), 0.0)
    for particle, weight in zip(population, strategy.weights(population, carried), strict=True):
        shares[particle.text] += weight
    return shares


def moved(on: Session, particle: Candidate, random: Random) -> Candidate:
    following = STEPS.get(particle.text)
    if following is None:
        return particle
    [step] = random.choices(list(following), list(following.values()))
    text = particle.text + step
    on.drawn += 1
    return candidate(on.drawn - 1, text=text, score=SCORES[text], parent=particle.id)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_the_target_is_sampled_however_often_all_are_resampled(threshold: float) -> None:
    shares = filtered(threshold, 4_000, Random(7))
    assert shares == pytest.approx(target(), abs=0.04)


# Effective sample size and resampling


@given(WEIGHTS)
def test_the_effective_sample_size_is_between_one_and_all(weights: list[float]) -> None:
    assert 1 - 1e-9 <= effective(weights) <= len(weights) + 1e-9


def test_the_effective_sample_size_of_hand_computed_cases() -> None:
    assert effective([0.25] * 4) == pytest.approx(4)
    assert effective([1.0, 0.0]) == 1
    assert effective([0.5, 0.25, 0.25]) == pytest.approx(1 / 0.375)


def reference(weights: list[float], offset: float) -> list[int]:
    """The first index whose cumulated weight is beyond each point."""
    points = [(i + offset) / len(weights) for i in range(len(weights))]
    bounds = [math.fsum(weights[: i + 1]) for i in range(len(weights))]
    return [next((i for i, bound in enumerate(bounds) if point < bound), len(weights) - 1) for point in points]


@given(st.lists(st.integers(0, 64), min_size=1, max_size=30).filter(any), st.floats(0.001, 0.999))
def test_resampling_is_as_the_reference_does_it(parts: list[int], offset: float) -> None:
    weights = [part / sum(parts) for part in parts]
    gap = min(
        abs((i + offset) / len(parts) - math.fsum(weights[: j + 1]))
        for i in range(len(parts))
        for j in range(len(parts))
    )
    if gap > 1e-9:  # else rounding decides
        assert systematic(weights, offset) == reference(weights, offset)


@given(WEIGHTS, st.floats(0, 0.999))
def test_every_particle_is_drawn_as_often_as_it_weighs_rounded_up_or_down(weights: list[float], offset: float) -> None:
    chosen = systematic(weights, offset)
    assert chosen == sorted(chosen)
    assert len(chosen) == len(weights)
    for index, weight in enumerate(weights):
        expected = weight * len(weights)
        assert math.floor(expected - 1e-6) <= chosen.count(index) <= math.ceil(expected + 1e-6)


def test_nobody_is_resampled_while_enough_are_effective() -> None:
    population = particles(0.5, 0.5, 0.6, 0.5)
    on = session(says(""))
    assert ParticleFilter().resample(on, population, Random(1)) == population
    assert on.drawn == 0
    assert ParticleFilter(threshold=0.0).resample(on, particles(1.0, 0.0, 0.0), Random(1))[1].score == 0.0


def test_clones_have_numbers_of_their_own() -> None:
    on = session(says(""))
    on.drawn = 3
    chosen = ParticleFilter().resample(on, particles(0.0, 1.0, 0.0), Random(1))
    assert [particle.id for particle in chosen] == [1, 3, 4]
    assert {particle.text for particle in chosen} == {"1\n\n"}
    assert {particle.score for particle in chosen} == {1.0}
    assert {*on.tree} == {3, 4}


def test_finished_particles_keep_their_weight() -> None:
    done = particles(0.9, finish="stop")[0]
    population = [done, *particles(0.1, 0.1, 0.1)[1:]]
    assert ParticleFilter().weights(population)[0] == pytest.approx(9 / (9 + 2 / 9))
    chosen = ParticleFilter(threshold=1.0).resample(session(says("")), population, Random(1))
    assert [particle.text for particle in chosen] == [done.text] * 3


# The whole


async def test_clones_are_continued_with_seeds_of_their_own() -> None:
    script = reviews(
        lambda prompt, index: f"{index}\n\nThe answer is {index}." if not grown(prompt) else "The answer is 42.",
        lambda solution: 0.99 if solution.startswith("2") else 0.01,
    )
    on = session(script, scorer=Generative(), pause=turn)
    outcome, _ = await finished(ParticleFilter(particles=4), on)
    policy = [call for _, call in engine(on).calls if not call.label_ids]
    assert [call.n for call in policy] == [4, 1, 1, 1, 1]
    assert len({call.seed for call in policy}) == 5
    assert [path.text for path in outcome.round.candidates] == ["2\n\nThe answer is 42."] * 4
    assert len({path.id for path in outcome.round.candidates}) == 4
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("42", 4)]


async def test_finished_particles_are_not_grown() -> None:
    script = reviews(
        lambda prompt, index: "The answer is 1." if index or grown(prompt) else "So\n\n", lambda solution: 0.5
    )
    on = session(script, scorer=Generative(), pause=turn)
    outcome, _ = await finished(ParticleFilter(particles=3), on)
    policy = [call for _, call in engine(on).calls if not call.label_ids]
    assert [call.n for call in policy] == [3, 1]
    texts = [path.text for path in outcome.round.candidates]
    assert texts == ["The answer is 1.", "The answer is 1.", "So\n\nThe answer is 1."]


async def test_the_seed_of_the_request_seeds_the_resampling() -> None:
    population = particles(*(0.1 + 0.08 * i for i in range(10)))
    strategy = ParticleFilter(threshold=1.0)
    drawn = [strategy.resample(replace(session(says(""))), population, Random(seed)) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1]
