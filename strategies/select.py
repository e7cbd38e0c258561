"""Choosing among candidates: votes and best-of-N, with ties broken by order.

A sample without an answer, or cut short, never votes (`Candidate.votes`); it is ranked behind those that do, complete
ones first, so that there is always something to return.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from strategies.types import Aggregate, Candidate, Round, Selection, Vote

Weight = Callable[[Candidate], float]


def one(candidate: Candidate) -> float:
    """Every vote counts the same: majority."""
    return 1.0


NO_OPINION = 0.5
"""What a candidate weighs, and where it is ranked, of which the scorer has no opinion: between right and wrong."""


def score(candidate: Candidate) -> float:
    return weight_of(candidate.score, candidate.scores)


def weight_of(score: float | None, scores: Sequence[float | None]) -> float:
    """What a score weighs: of a candidate that was not scored, nothing."""
    if score is None:
        return NO_OPINION if scores else 0.0
    return score


def fold(scores: Sequence[float | None], how: Aggregate) -> float | None:
    """One number from the scores of the steps; None where there is no opinion of any."""
    return folds(scores, how)[-1] if scores else None


def folds(scores: Sequence[float | None], how: Aggregate) -> list[float | None]:
    """What the scores up to each step fold to."""
    found: list[float | None] = []
    known: float | None = None
    count = 0
    for score in scores:
        if score is not None:
            count += 1
            known = score if known is None else folded(known, score, how)
        found.append(known / count if known is not None and how == "mean" else known)
    return found


def folded(before: float, score: float, how: Aggregate) -> float:
    """One more score; a mean is the sum until it is told."""
    match how:
        case "last":
            return score
        case "min":
            return min(before, score)
        case "mean":
            return before + score
        case "prod":
            return before * score


@dataclass(frozen=True, slots=True)
class SoftmaxVote:
    """Votes count softmax(score / temperature) over the samples that vote (CISC, Taubenfeld et al., 2025,
    arXiv:2502.06233)."""

    temperature: float


@dataclass(frozen=True, slots=True)
class KeptVote:
    """The `keep` percent of the samples that vote with the highest scores vote, each with its score (DeepConf, Fu et
    al., 2025, arXiv:2508.15260)."""

    keep: float


@dataclass(frozen=True, slots=True)
class ThresholdVote:
    """The samples whose score is at least `threshold` vote, each with its score."""

    threshold: float


Choice = Selection | SoftmaxVote | KeptVote | ThresholdVote
"""How an answer is chosen among those drawn; what weights depend on all samples, smaller sizes are not read off."""


def by_selection(candidates: Sequence[Candidate], how: Choice) -> Round:
    """Rank answers as a strategy chooses among independent samples."""
    match how:
        case SoftmaxVote(temperature):
            return by_confidence(candidates, temperature)
        case KeptVote(keep):
            return by_threshold(candidates, least_kept(candidates, keep))
        case ThresholdVote(threshold):
            return by_threshold(candidates, threshold)
        case "majority":
            return by_vote(candidates)
        case "weighted_vote":
            return by_vote(candidates, weight=score)
        case "best":
            return by_score(candidates)


def by_vote(candidates: Sequence[Candidate], weight: Weight = one) -> Round:
    """Rank answers by the summed weight of their candidates: argmax over a of the sum of w_i where y_i = a.

    The best-scored candidate of a class, the first among equals, stands for it.
    """
    groups = classes(candidates)
    weights = {group: sum(map(weight, members)) for group, members in groups.items()}
    order = sorted(groups, key=lambda group: (-weights[group], groups[group][0].id))
    winners = [min(groups[group], key=lambda c: (-score(c), c.id)) for group in order]
    votes = tuple(Vote(groups[g][0].answer or "", len(groups[g]), weights[g]) for g in order)
    return Round(tuple(candidates), tuple(winners + silent(candidates)), votes)


def by_confidence(candidates: Sequence[Candidate], temperature: float) -> Round:
    """Rank answers by the softmax of their scores, over the candidates that vote."""
    voting = [candidate for candidate in candidates if candidate.votes]
    shares = softmax([score(candidate) for candidate in voting], temperature)
    weights = {candidate.id: share for candidate, share in zip(voting, shares, strict=True)}
    return by_vote(candidates, weight=lambda candidate: weights[candidate.id])


def by_threshold(candidates: Sequence[Candidate], threshold: float) -> Round:
    """Rank answers by the scores of the candidates whose score is high enough; the others weigh nothing. Where that
    leaves nothing, every vote counts the same."""
    weights = {candidate.id: score(candidate) for candidate in confident(candidates, threshold)}
    if not any(weights.values()):
        return by_vote(candidates)
    return by_vote(candidates, weight=lambda candidate: weights.get(candidate.id, 0.0))


def confident(candidates: Sequence[Candidate], threshold: float) -> list[Candidate]:
    """Those that vote and whose score is high enough; one of which the scorer has no opinion is none of them."""
    return [c for c in candidates if c.votes and c.score is not None and c.score >= threshold]


def least_kept(candidates: Sequence[Candidate], keep: float) -> float:
    """The least score among the `keep` percent of those that vote which have the highest ones; ties are kept."""
    scores = [candidate.score for candidate in candidates if candidate.votes and candidate.score is not None]
    return percentile(scores, 100 - keep) if scores else 0.0


def percentile(numbers: Sequence[float], percent: float) -> float:
    """Between the two numbers that are nearest to it in order, interpolated."""
    ordered = sorted(numbers)
    at = percent / 100 * (len(ordered) - 1)
    below, above = ordered[math.floor(at)], ordered[math.ceil(at)]
    return below + (above - below) * (at - math.floor(at))


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    peak = max(logits, default=0.0)
    weights = [math.exp((logit - peak) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def by_score(candidates: Sequence[Candidate]) -> Round:
    """Rank answers by the score of their best candidate; the votes beside it are the plain majority."""
    seen: set[int | None] = set()
    winners = []
    for candidate in sorted(filter(lambda c: c.votes, candidates), key=lambda c: (-score(c), c.id)):
        if candidate.group not in seen:
            seen.add(candidate.group)
            winners.append(candidate)
    return Round(tuple(candidates), tuple(winners + silent(candidates)), by_vote(candidates).votes)


def classes(candidates: Sequence[Candidate]) -> dict[int, list[Candidate]]:
    """The candidates that vote, by class, each class in the order of its candidates."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: c.id):
        if candidate.votes and candidate.group is not None:
            groups.setdefault(candidate.group, []).append(candidate)
    return groups


def silent(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that do not vote, distinct by text: complete ones first, then the best scored, then by order."""
    distinct: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (not c.complete, -score(c), c.id)):
        if not candidate.votes:
            distinct.setdefault(candidate.text, candidate)
    return list(distinct.values())
