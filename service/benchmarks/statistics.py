"""Estimators and intervals. Every function is pure, and what is random is seeded: the same data give the same figures.

Arrays of values have a row for every question: questions are what is resampled, since the samples of one question are
not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Interval = tuple[float, float]

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""

RESAMPLES = 2000
SUBSETS = 500
"""Random subsets that stand for all where there are more than `ENUMERATED`."""
ENUMERATED = 2000


def wilson(rate: float, n: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson, 1927).

    (p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n). For a mean of per-question expectations in [0, 1] it is too
    wide rather than too narrow: no distribution with that mean varies more than one of zeros and ones.
    """
    if n == 0:
        return 0.0, 1.0
    middle = rate + Z * Z / (2 * n)
    half = Z * sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def bootstrap_means(values: Floats, seed: int = 0) -> Floats:
    """The means of `RESAMPLES` resamples of the questions (Efron, 1979), a row each; columns share the resamples."""
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=RESAMPLES)
    means: Floats = counts @ values / n
    return means


def percentiles(resampled: Floats) -> Interval:
    """The middle 95 % of resampled figures."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def interval(values: Floats) -> Interval:
    """The 95 % interval of the mean of `values`, which has a row for every question and a column for every seed.

    One seed: Wilson. Several: the bootstrap over questions of their means over the seeds; where those are all equal the
    bootstrap would claim certainty, so that Wilson stands in.
    """
    means = values.mean(axis=1)
    if values.shape[1] == 1 or np.ptp(means) == 0:
        return wilson(float(means.mean()), len(means))
    return percentiles(bootstrap_means(means))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that one of k of the n samples is correct: 1 − C(n−c, k) / C(n, k), unbiased (Chen et al., 2021)."""
    return 1 - comb(n - correct, k) / comb(n, k)


def best_of_k(correct: Sequence[float], k: int) -> float:
    """The expected correctness of the best of k of n samples, exactly, from all n in order of rank, best first.

    Rank i (from 0) wins where it is drawn and none of the i better ones is: C(n−1−i, k−1) / C(n, k) of all subsets. The
    ranks are strict, ties having been broken as the strategy breaks them, so that k = n is what it chose.
    """
    n = len(correct)
    return sum(value * comb(n - 1 - i, k - 1) for i, value in enumerate(correct)) / comb(n, k)


@dataclass(frozen=True, slots=True)
class Ballots:
    """The n samples of one question, in their order, as a vote sees them.

    `group` numbers classes of equal answers and is −1 for a sample that does not vote; of a class, the sample with the
    lowest `rank` stands for it, and of a subset without any vote the one with the lowest of all.
    """

    group: Indices
    weight: Floats
    rank: Indices
    correct: Floats

    def at(self, k: int, seed: int) -> float:
        """The expected correctness of a vote of k of the n samples.

        Over all subsets of size k where these are at most `ENUMERATED`, else over `SUBSETS` random ones.
        """
        return float(self.correct[self.winners(subsets(len(self.group), k, seed))].mean())

    def winners(self, chosen: Indices) -> Indices:
        """Which sample each subset elects: the class of the highest weight, of equal ones that which came first."""
        count, k = chosen.shape
        rows = np.arange(count)
        classes = int(self.group.max(initial=-1)) + 1
        weights = np.full((count, classes + 1), -np.inf)  # the last column is of those that do not vote
        first = np.full((count, classes + 1), k)
        for position in reversed(range(k)):
            group = self.group[chosen[:, position]]
            first[rows, group] = position
            held = weights[rows, group]
            weights[rows, group] = np.where(np.isinf(held), 0.0, held) + self.weight[chosen[:, position]]
        weights[:, classes] = np.where(first[:, classes] < k, -np.finfo(float).max, -np.inf)
        best = np.isclose(weights, weights.max(axis=1, keepdims=True), rtol=1e-12, atol=0)
        elected = np.where(best, first, k).argmin(axis=1)
        member = self.group[chosen] == np.where(elected == classes, -1, elected)[:, None]
        ranks = np.where(member, self.rank[chosen], len(self.group))
        winners: Indices = chosen[rows, ranks.argmin(axis=1)]
        return winners


def subsets(n: int, k: int, seed: int) -> Indices:
    """All subsets of size k, or `SUBSETS` random ones, a row each, ascending."""
    if comb(n, k) <= ENUMERATED:
        return np.array(list(combinations(range(n), k)), dtype=np.int64)
    keys = np.random.default_rng((seed, n, k)).random((SUBSETS, n))
    return np.sort(keys.argpartition(k - 1, axis=1)[:, :k], axis=1).astype(np.int64)


def pareto(costs: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Which points no other one beats: none is as cheap and as accurate, and better in one of the two."""
    points = list(zip(costs, accuracies, strict=True))

    def beaten(cost: float, accuracy: float) -> bool:
        return any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)

    return [not beaten(*point) for point in points]


@dataclass(frozen=True, slots=True)
class Fit:
    """accuracy = intercept + slope · log2(tokens), for tokens in `tokens`; `ci` is of the slope."""

    intercept: float
    slope: float
    ci: Interval
    tokens: Interval
    points: int


def log_linear(tokens: Sequence[float], values: Floats) -> Fit | None:
    """What a doubling of tokens buys while accuracy rises, by least squares; None where it cannot be told to rise.

    `values` has a column for every point of the curve. The rising part ends at the most accurate point and needs three
    points; the slope's interval, by the bootstrap over questions, must lie above zero. Choosing the end by the data
    flatters the slope a little. Where nothing was generated there is no logarithm, and no fit.
    """
    if min(tokens) <= 0:
        return None
    order = np.argsort(tokens, kind="stable")
    x, values = np.log2(np.asarray(tokens, dtype=float)[order]), values[:, order]
    end = int(values.mean(axis=0).argmax()) + 1
    x, values = x[:end], values[:, :end]
    if end < 3 or np.ptp(x) == 0:
        return None
    deviation = x - x.mean()
    by_slope = deviation / (deviation**2).sum()
    means = values.mean(axis=0)
    slope = float(means @ by_slope)
    ci = percentiles(bootstrap_means(values) @ by_slope)
    if ci[0] <= 0:
        return None
    return Fit(float(means.mean() - slope * x.mean()), slope, ci, (float(2 ** x[0]), float(2 ** x[-1])), end)


def at_tokens(tokens: Sequence[float], values: Floats, wanted: float) -> Floats | None:
    """Every question's value on a curve at so many tokens, linear in log2(tokens) between its points.

    None outside of the curve: nothing is extrapolated; and where nothing was generated, which has no logarithm.
    """
    if min(wanted, *tokens) <= 0:
        return None
    order = np.argsort(tokens, kind="stable")
    x, values = np.log2(np.asarray(tokens, dtype=float)[order]), values[:, order]
    at = float(np.log2(wanted))
    if not x[0] <= at <= x[-1]:
        return None
    right = min(int(np.searchsorted(x, at, side="right")), len(x) - 1)
    left = max(right - 1, 0)
    span = x[right] - x[left]
    share = (at - x[left]) / span if span else 0.0
    found: Floats = (1 - share) * values[:, left] + share * values[:, right]
    return found


def difference(values: Floats, others: Floats) -> tuple[float, Interval]:
    """The mean of `values` less that of `others`, question by question, and its interval by the bootstrap."""
    paired = values - others
    return float(paired.mean()), percentiles(bootstrap_means(paired))
