"""Accuracy against compute, read off the samples of one comparison, and what such curves say.

All of it is computed question by question, and intervals are of the bootstrap over questions
(`service/benchmarks/statistics.py`), which resamples accuracy and cost together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, inf

import numpy as np

from benchmarks.claims.flops import Shape
from benchmarks.lab.measured import Samples
from service.benchmarks import statistics
from service.benchmarks.results import Answered
from service.benchmarks.statistics import Fit, Floats, Interval

VERIFIED = 1.0
"""Score of an answer whose equations all hold."""
DIGITS = 12


@dataclass(frozen=True, slots=True)
class Strategy:
    """How it would choose among k of the samples, and how many of them it would draw. `least`: its first size; two
    votes decide nothing, so that a vote's second size is no use of compute."""

    right: Callable[[Answered, int], float]
    drawn: Callable[[Answered, int], float]
    least: int = 1


def every(_: Answered, k: int) -> float:
    return float(k)


def until_verified(answered: Answered, k: int) -> float:
    """The expected number of samples that are drawn one by one until one is verified, at most k.

    The sum over j < k of the chance that none of j samples is verified, C(n−v, j) / C(n, j). What is drawn by then is
    right as often as the best of k, since all verified answers score alike and the first of them is taken.
    """
    pairs = zip(answered.groups, answered.scores, strict=True)
    others = answered.n - sum(group is not None and score >= VERIFIED for group, score in pairs)
    return sum(comb(others, j) / comb(answered.n, j) for j in range(min(k, answered.n)))


MAJORITY, BEST, VERIFYING, ORACLE = "majority", "best by equations", "until the equations hold", "pass@k (an oracle)"
STRATEGIES: Mapping[str, Strategy] = {
    MAJORITY: Strategy(Answered.majority_at, every, least=2),
    BEST: Strategy(Answered.best_at, every),
    VERIFYING: Strategy(Answered.best_at, until_verified),
    ORACLE: Strategy(Answered.pass_at, every),
}
CHOOSING = (MAJORITY, BEST, VERIFYING)
"""What chooses without knowing the answer."""


@dataclass(frozen=True, slots=True)
class Track:
    """One strategy of one model: a row for every question, a column for every size."""

    sizes: Sequence[int]
    right: Floats
    tokens: Floats
    flops: Floats

    def column(self, size: int) -> Track:
        at = [self.sizes.index(size)]
        return Track([size], self.right[:, at], self.tokens[:, at], self.flops[:, at])

    def first(self, count: int) -> Track:
        return Track(self.sizes[:count], self.right[:, :count], self.tokens[:, :count], self.flops[:, :count])

    @property
    def rates(self) -> Floats:
        means: Floats = self.right.mean(axis=0)
        return means

    @property
    def mean_tokens(self) -> Floats:
        means: Floats = self.tokens.mean(axis=0)
        return means

    @property
    def mean_flops(self) -> Floats:
        means: Floats = self.flops.mean(axis=0)
        return means

    def interval(self, size: int) -> Interval:
        return statistics.interval(self.column(size).right)


def track(samples: Samples, strategy: Strategy, shape: Shape) -> Track:
    """What a strategy would have made of the samples, whose scorer computes and costs nothing."""
    [(task, answers)] = samples.tasks
    given = [answered for each in answers.values() for answered in each]
    sizes = [size for size in task.sizes if size >= strategy.least or size == task.size]

    def table(of: Callable[[Answered, int], float]) -> Floats:
        return np.array([[of(answered, size) for size in sizes] for answered in given])

    def tokens(answered: Answered, size: int) -> float:
        return strategy.drawn(answered, size) * share(answered, answered.policy)

    def flops(answered: Answered, size: int) -> float:
        prompt, completion = share(answered, answered.prompt), share(answered, answered.policy)
        return shape.request(prompt, completion, strategy.drawn(answered, size))

    return Track(sizes, table(strategy.right), table(tokens), table(flops))


def share(answered: Answered, total: int) -> float:
    """One sample's; a request that failed has none."""
    return total / answered.n if answered.n else 0.0


def pass_at_1(samples: Samples) -> Floats:
    """Of every question."""
    [(_, answers)] = samples.tasks
    return np.array([np.mean([answered.pass_at(1) for answered in given]) for given in answers.values()])


# More compute


@dataclass(frozen=True, slots=True)
class Growth:
    """`end`: the size behind which a doubling gains nothing that can be told from zero; None where every one did.
    `fit`: of the sizes up to there; None where it cannot be told to rise. `bend`: the interval of the coefficient of
    log2(tokens)², which a straight line has not."""

    end: int | None
    fit: Fit | None
    bend: Interval | None


def growth(found: Track) -> Growth:
    last = next((i for i in range(len(found.sizes) - 1) if not gains(found, i)), None)
    rising = found if last is None else found.first(last + 1)
    fit = statistics.log_linear([*rising.mean_tokens], rising.right)
    bend = quadratic(rising.mean_tokens[: fit.points], rising.right[:, : fit.points]) if fit else None
    return Growth(None if last is None else found.sizes[last], fit, bend)


def gains(found: Track, place: int) -> bool:
    """Whether the doubling behind a size makes more questions right, by the whole interval."""
    _, (low, _) = statistics.difference(found.right[:, place + 1], found.right[:, place])
    return low > 0


def quadratic(tokens: Floats, right: Floats) -> Interval:
    """The interval of the second-order coefficient of a least-squares parabola."""
    x = np.log2(tokens)
    row = np.linalg.pinv(np.vander(x - x.mean(), 3))[0]
    return weighted_interval(right, row)


def weighted_interval(right: Floats, row: Floats) -> Interval:
    """Of a weighted sum of the points' rates; rounded, so that sums which are zero are not taken for more or less."""
    low, high = statistics.percentiles(statistics.bootstrap_means(right) @ row)
    return round(low, DIGITS), round(high, DIGITS)


@dataclass(frozen=True, slots=True)
class Slope:
    """right = intercept + slope · log2(compute), by least squares over all of the points."""

    intercept: float
    slope: float
    ci: Interval


def slope(compute: Sequence[float], right: Floats) -> Slope:
    """`right` has a column for every point."""
    x = np.log2(np.asarray(compute, dtype=float))
    deviation = x - x.mean()
    by_slope = deviation / (deviation**2).sum()
    means = right.mean(axis=0)
    found = float(means @ by_slope)
    return Slope(float(means.mean() - found * x.mean()), found, weighted_interval(right, by_slope))


# A smaller model


@dataclass(frozen=True, slots=True)
class Meeting:
    """At which multiple of a unit of compute a curve reaches an accuracy; infinite where it does not."""

    multiple: float
    ci: Interval


def meeting(curve: Track, wanted: Floats, unit: Floats) -> Meeting:
    """`wanted` and `unit` have a value for every question: another one's accuracy, and the compute that counts as 1."""
    resampled = zip(
        statistics.bootstrap_means(curve.flops),
        statistics.bootstrap_means(curve.right),
        statistics.bootstrap_means(wanted),
        statistics.bootstrap_means(unit),
        strict=True,
    )
    multiples = np.array([reached(flops, right, goal) / one for flops, right, goal, one in resampled])
    low, high = np.quantile(multiples, [0.025, 0.975], method="inverted_cdf")  # no means of infinities
    multiple = reached(curve.mean_flops, curve.rates, float(wanted.mean())) / float(unit.mean())
    return Meeting(multiple, (float(low), float(high)))


def reached(flops: Floats, right: Floats, wanted: float) -> float:
    """The least compute with which a curve, linear in log2 between its points, is as accurate as wanted.

    A curve that begins there needs what its first point needs, or less.
    """
    above = right >= wanted - 1e-12  # sums of the same resample in another order
    if not above.any():
        return inf
    end = int(above.argmax())
    if end == 0:
        return float(flops[0])
    low, high = np.log2(flops[end - 1 : end + 1])
    part = (wanted - right[end - 1]) / (right[end] - right[end - 1])
    return float(2 ** (low + part * (high - low)))


@dataclass(frozen=True, slots=True)
class Gap:
    """A mean over questions, with its interval."""

    mean: float
    ci: Interval


def at_most(curve: Track, multiple: float, unit: Floats, wanted: Floats) -> tuple[float, Gap]:
    """The curve's accuracy at so many units of compute, or at its end if it never spends so many, less another one's;
    with the units that were spent."""
    spent = float(max(curve.mean_flops[0], min(multiple * unit.mean(), curve.mean_flops[-1])))
    right = statistics.at_tokens([*curve.mean_flops], curve.right, spent)
    assert right is not None, "it lies on the curve"
    return spent / float(unit.mean()), Gap(*statistics.difference(right, wanted))


# Search and training together


def interaction(base: Floats, search: Floats, training: Floats, both: Floats) -> Gap:
    """What both gain beyond the sum of what each gains alone: both − search − training + base, of every question."""
    return Gap(*statistics.difference(both - training, search - base))
