"""The estimators against brute force, scipy and statsmodels."""

from __future__ import annotations

from itertools import combinations, product
from random import Random
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import bootstrap, linregress
from statsmodels.stats.proportion import proportion_confint

from service.benchmarks import statistics
from service.benchmarks.statistics import Ballots
from strategies.select import by_score, by_vote, score
from strategies.types import Candidate, Generation


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (0, 30), (7, 30), (30, 30), (199, 200)])
def test_wilson_is_statsmodels(correct: int, n: int) -> None:
    expected = proportion_confint(correct, n, method="wilson")
    assert statistics.wilson(correct / n, n) == pytest.approx(expected, abs=1e-12)


def test_wilson_of_nothing_knows_nothing() -> None:
    assert statistics.wilson(0, 0) == (0, 1)


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).random((120, 3))
    low, high = statistics.interval(values)
    expected = bootstrap(
        (values.mean(axis=1),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_one_seed_is_wilson_and_so_is_certainty() -> None:
    solved = np.array([[1.0], [0.0], [1.0], [1.0]])
    assert statistics.interval(solved) == statistics.wilson(0.75, 4)
    assert statistics.interval(np.ones((20, 3))) == statistics.wilson(1.0, 20)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n: int) -> None:
    for correct, k in product(range(n + 1), range(1, n + 1)):
        subsets = list(combinations([1] * correct + [0] * (n - correct), k))
        assert statistics.pass_at_k(n, correct, k) == pytest.approx(fmean(map(max, subsets)))


def candidates(random: Random, n: int) -> list[Candidate]:
    """Samples with ties in score and answer, some of which are cut or have no answer."""
    made = []
    for i in range(n):
        group = random.choice([None, 0, 1, 2])
        cut = random.random() < 0.2
        generation = Generation(f"text {i}", 1, "length" if cut else "stop")
        found = None if cut else group
        score = random.choice([0.2, 0.5, 0.5, 0.9])
        made.append(Candidate(i, (generation,), answer=str(found), group=found, score=score, scores=(score,)))
    return made


def ranked(samples: list[Candidate]) -> list[Candidate]:
    return sorted(samples, key=lambda c: (not c.votes, not c.complete, -score(c), c.id))


@pytest.mark.parametrize("seed", range(20))
def test_best_of_k_is_what_the_strategy_would_choose_from_every_subset(seed: int) -> None:
    random = Random(seed)
    samples = candidates(random, 7)
    correct = [float(random.random() < 0.5) for _ in samples]
    for k in range(1, 8):
        expected = fmean(correct[by_score(subset).ranked[0].id] for subset in combinations(samples, k))
        found = statistics.best_of_k([correct[c.id] for c in ranked(samples)], k)
        assert found == pytest.approx(expected), (seed, k)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_votes_at_k_are_what_the_strategy_would_elect_from_every_subset(seed: int, weighted: bool) -> None:
    random = Random(seed)
    samples = candidates(random, 7)
    correct = [float(random.random() < 0.5) for _ in samples]
    ballots = ballots_of(samples, correct, weighted)
    for k in range(1, 8):
        chosen = [by_vote(s, weight=score) if weighted else by_vote(s) for s in combinations(samples, k)]
        expected = fmean(correct[round_.ranked[0].id] for round_ in chosen)
        assert ballots.at(k, seed=0) == pytest.approx(expected), (seed, k)


def ballots_of(samples: list[Candidate], correct: list[float], weighted: bool) -> Ballots:
    rank = np.empty(len(samples), dtype=np.int64)
    rank[[c.id for c in ranked(samples)]] = np.arange(len(samples))
    return Ballots(
        np.array([-1 if not c.votes or c.group is None else c.group for c in samples]),
        np.array([score(c) if weighted else 1.0 for c in samples]),
        rank,
        np.array(correct),
    )


def test_random_subsets_come_close_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = candidates(Random(3), 14)
    ballots = ballots_of(samples, [float(c.group == 1) for c in samples], weighted=False)
    exact = ballots.at(4, seed=0)
    monkeypatch.setattr(statistics, "ENUMERATED", 0)
    found = ballots.at(4, seed=0)
    assert found != exact
    assert found == pytest.approx(exact, abs=4 * (0.25 / statistics.SUBSETS) ** 0.5)


def test_pareto_keeps_what_nothing_beats() -> None:
    costs, accuracies = [1, 2, 2, 3, 4, 4], [0.1, 0.3, 0.2, 0.3, 0.5, 0.5]
    assert statistics.pareto(costs, accuracies) == [True, True, False, False, True, True]


def curve(rates: list[float], questions: int = 400) -> statistics.Floats:
    """Questions of every difficulty, solved at a point when they are easier than its rate."""
    difficulty = np.random.default_rng(0).permutation(np.linspace(0, 1, questions, endpoint=False))
    return (difficulty[:, None] < np.array(rates)[None, :]).astype(float)


def test_fit_is_least_squares_over_the_rising_part() -> None:
    tokens, values = [100, 200, 400, 800, 1600], curve([0.2, 0.3, 0.38, 0.5, 0.45])
    fit = statistics.log_linear(tokens, values)
    assert fit is not None
    expected = linregress(np.log2(tokens[:4]), values.mean(axis=0)[:4])
    assert (fit.slope, fit.intercept) == pytest.approx((expected.slope, expected.intercept))
    assert fit.points == 4
    assert fit.tokens == pytest.approx((100, 800))
    assert 0 < fit.ci[0] < fit.slope < fit.ci[1] < 0.2


@pytest.mark.parametrize("rates", [[0.5, 0.4, 0.3], [0.3, 0.5], [0.3, 0.3025, 0.305]])
def test_no_fit_where_nothing_is_known_to_rise(rates: list[float]) -> None:
    rng = np.random.default_rng(4)
    values = (rng.random((200, len(rates))) < np.array(rates)).astype(float)
    assert statistics.log_linear([100 * 2**i for i in range(len(rates))], values) is None


def test_equal_tokens_are_interpolated_and_never_extrapolated() -> None:
    tokens, values = [400, 100], np.array([[1.0, 0.0], [1.0, 1.0]])
    assert statistics.at_tokens(tokens, values, 200) == pytest.approx([0.5, 1.0])
    assert statistics.at_tokens(tokens, values, 100) == pytest.approx([0.0, 1.0])
    assert statistics.at_tokens(tokens, values, 400) == pytest.approx([1.0, 1.0])
    assert statistics.at_tokens(tokens, values, 99) is None
    assert statistics.at_tokens(tokens, values, 401) is None


def test_nothing_generated_has_no_logarithm() -> None:
    values = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    for wanted in (0, 10):
        assert statistics.at_tokens([0, 10, 20], values, wanted) is None
    assert statistics.at_tokens([10, 20, 40], values, 0) is None
    assert statistics.log_linear([0, 10, 20], values) is None


def test_difference_is_of_pairs() -> None:
    easy = np.random.default_rng(5).random(300) < 0.5
    mean, ci = statistics.difference(easy.astype(float), easy.astype(float) - 0.1)
    assert mean == pytest.approx(0.1)
    assert ci == pytest.approx((0.1, 0.1)), "the questions' own difficulty cancels out"
