"""Every figure again, from the samples alone, by other means: enumeration, scipy and statsmodels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap, hypergeom, linregress
from statsmodels.stats.proportion import proportion_confint

from service.engines.scripted import ScriptedEngine
from service.settings import Settings
from tests.conftest import outthink
from tests.service.benchmarks.asking import done, lines
from tests.service.benchmarks.sums import sums

PARAMETERS = 1000
QUESTIONS = 12
STRATEGIES = [
    "self_consistency",
    {"type": "self_consistency", "vote": "weighted", "scorer": "logprob"},
    {"type": "best_of_n", "scorer": "logprob"},
    {"type": "best_of_n", "scorer": "judge", "select": "weighted_vote"},
    {"type": "particle_filter", "scorer": "logprob", "samples": [2, 4]},
]
READ_OFF = {"self_consistency": "self_consistency vote=weighted scorer=logprob"}
"""The plain vote, of the samples of the weighted one."""
Candidates = Sequence[Mapping[str, Any]]


def elected(candidates: Candidates, weigh: Callable[[Mapping[str, Any]], float]) -> Mapping[str, Any]:
    """The first candidate, by score and then by order, of the class with the most weight."""
    weights: dict[int, float] = defaultdict(float)
    for candidate in candidates:
        if candidate["group"] is not None:
            weights[candidate["group"]] += weigh(candidate)
    if not weights:
        return min(candidates, key=lambda c: (c["finish_reason"] == "length", -(c["score"] or 0), c["id"]))
    winner = max(weights, key=lambda group: weights[group])  # of equals the first, as dictionaries keep their order
    members = [candidate for candidate in candidates if candidate["group"] == winner]
    return min(members, key=lambda c: (-(c["score"] or 0), c["id"]))


def by_majority(candidates: Candidates) -> float:
    return float(elected(candidates, lambda c: 1.0)["correct"])


def by_weight(candidates: Candidates) -> float:
    return float(elected(candidates, lambda c: c["score"])["correct"])


def by_score(candidates: Candidates) -> float:
    voting = [c for c in candidates if c["group"] is not None]
    return max(voting, key=lambda c: (c["score"], -c["id"]))["correct"] if voting else by_majority(candidates)


RULES = {
    "self_consistency vote=weighted scorer=logprob": by_weight,
    "best_of_n scorer=logprob": by_score,
    "best_of_n scorer=judge select=weighted_vote": by_weight,
}


def over_subsets(line: Mapping[str, Any], k: int, rule: Callable[[Candidates], float]) -> float:
    return fmean(rule(subset) for subset in combinations(line["candidates"], k))


@pytest.mark.parametrize("seeds", [1, 3])
async def test_every_figure_can_be_recomputed_from_the_samples(seeds: int) -> None:
    dataset = {"name": "arithmetic", "questions": QUESTIONS}
    async with outthink(ScriptedEngine(sums), settings=Settings(model_parameters=PARAMETERS)) as client:
        job = await done(client, strategies=STRATEGIES, dataset=dataset, seeds=seeds, samples=[1, 2, 3, 6])
        written = await lines(client, job)
    assert len(job["results"]) == 4 * 4 + 2
    for cell in job["results"]:
        source = READ_OFF.get(cell["name"], cell["name"])
        check(cell, [line for line in written if line["name"] == source], seeds)
    check_pareto(job["results"])
    assert job["fits"]
    for fit in job["fits"]:
        check_fit(fit, [cell for cell in job["results"] if cell["name"] == fit["name"]])
    check_comparisons(job)


def check(cell: Mapping[str, Any], written: list[dict[str, Any]], seeds: int) -> None:
    k = cell["samples"]
    search, read_off = "particle" in cell["name"], cell["name"] in READ_OFF
    mine = [line for line in written if line["samples"] == (k if search else 6)]
    assert len(mine) == QUESTIONS * seeds
    whole = search or k == 6
    share = 1.0 if whole else k / 6

    def chosen(line: Mapping[str, Any]) -> float:
        return next(float(c["correct"]) for c in line["candidates"] if c["id"] == line["chosen"])

    by_question = defaultdict(list)
    for line in mine:
        rule = by_majority_in_order if read_off else RULES.get(cell["name"], by_majority)
        returned = whole and not read_off
        by_question[line["index"]].append(chosen(line) if returned else over_subsets(line, k, rule))
        if not (search or read_off):
            assert chosen(line) == rule(line["candidates"]), "what was returned is what the votes and scores say"
    means = [fmean(values) for values in by_question.values()]
    assert cell["accuracy"] == pytest.approx(fmean(means))
    if seeds == 1:
        low, high = proportion_confint(fmean(means) * QUESTIONS, QUESTIONS, method="wilson")
        assert cell["ci"] == pytest.approx([low, high])
    else:
        drawn = bootstrap((means,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(7))
        # So few questions have few means: a percentile may stand between two of them, and either is right.
        for bound, around in zip(cell["ci"], ((0.01, 0.04), (0.96, 0.99)), strict=True):
            least, most = np.quantile(drawn.bootstrap_distribution, around)
            assert least - 0.025 <= bound <= most + 0.025

    def solved_once(line: Mapping[str, Any]) -> float:
        right = sum(c["correct"] for c in line["candidates"])
        n = len(line["candidates"])
        return 1 - float(hypergeom.pmf(0, n, right, n if whole else k))

    n = [len(line["candidates"]) if whole else k for line in mine]
    assert cell["pass_at_k"] == pytest.approx(fmean(map(solved_once, mine)))
    majority = [over_subsets(line, size, by_majority_in_order) for line, size in zip(mine, n, strict=True)]
    assert cell["majority_at_k"] == pytest.approx(fmean(majority))
    for role in ("policy", "scorer"):
        spent = fmean(line["usage"][role]["completion"] for line in mine)
        assert cell["tokens"][role] == pytest.approx(share * spent)
    usage = [part for line in mine for part in line["usage"].values()]
    read = sum(part["prompt"] for part in usage) / len(mine)
    assert cell["tokens"]["prompt"] == pytest.approx(share * read)
    made = sum(part["prompt"] - part["cached"] + part["completion"] for part in usage) / len(mine)
    assert cell["flops"] == pytest.approx(2 * PARAMETERS * share * made)
    voting = [sum(c["group"] is not None for c in line["candidates"]) for line in mine]
    silent = [float(hypergeom.pmf(0, len(x["candidates"]), v, s)) for x, v, s in zip(mine, voting, n, strict=True)]
    assert cell["unanswered"] == pytest.approx(sum(silent) / seeds)
    assert cell["effective_n"] == pytest.approx(share * fmean(voting))
    cut = sum(c["finish_reason"] == "length" for line in mine for c in line["candidates"])
    assert cell["truncated"] == pytest.approx(share * cut / seeds)
    assert (cell["n_questions"], cell["seeds"], cell["errors"], cell["failed"]) == (QUESTIONS, seeds, 0, 0)
    seconds = fmean(line["seconds"] for line in mine)
    assert cell["seconds"] == (pytest.approx(seconds) if whole and not read_off else None)


def by_majority_in_order(candidates: Candidates) -> float:
    """The plain majority, which knows no scores."""
    return by_majority([{**candidate, "score": 0} for candidate in candidates])


def cost(cell: Mapping[str, Any]) -> float:
    return float(cell["tokens"]["policy"] + cell["tokens"]["scorer"])


def check_pareto(cells: Sequence[Mapping[str, Any]]) -> None:
    for cell in cells:
        others = [(cost(c), c["accuracy"]) for c in cells]
        better = [p for p in others if p[0] < cost(cell) and p[1] >= cell["accuracy"]]
        better += [p for p in others if p[0] == cost(cell) and p[1] > cell["accuracy"]]
        assert cell["pareto"] == (not better)


def check_fit(fit: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    accuracies = [cell["accuracy"] for cell in cells]
    rising = cells[: accuracies.index(max(accuracies)) + 1]
    line = linregress([np.log2(cost(cell)) for cell in rising], [cell["accuracy"] for cell in rising])
    assert (fit["slope"], fit["intercept"], fit["points"]) == pytest.approx((line.slope, line.intercept, len(rising)))
    assert 0 < fit["ci"][0] < fit["slope"] < fit["ci"][1]


def check_comparisons(job: Mapping[str, Any]) -> None:
    """Between curves over the same tokens the difference is what interpolation by numpy says."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cell in job["results"]:
        curves[cell["name"]].append((np.log2(cost(cell)), cell["accuracy"]))
    names = list(curves)
    assert job["comparisons"]
    for row in job["comparisons"]:
        assert names.index(row["against"]["name"]) < names.index(row["name"]), "the baseline comes first"
        (cell,) = [c for c in job["results"] if (c["name"], c["samples"]) == (row["name"], row["samples"])]
        xs, ys = zip(*sorted(curves[row["against"]["name"]]), strict=True)
        assert xs[0] <= np.log2(cost(cell)) <= xs[-1]
        expected = cell["accuracy"] - np.interp(np.log2(cost(cell)), xs, ys)
        assert row["difference"] == pytest.approx(expected)
        assert row["ci"][0] <= row["difference"] <= row["ci"][1]
