"""Choosing among candidates: votes and best-of-N, with ties broken by order.

A sample without an answer, or cut short, never votes (`Candidate.votes`); it is ranked behind those that do, complete
ones first, so that there is always something to return.
"""

import math
from collections.abc import Callable, Sequence

from strategies.types import Aggregate, Candidate, Round, Selection, Vote

Weight = Callable[[Candidate], float]


def one(candidate: Candidate) -> float:
    """Every vote counts the same: majority."""
    return 1.0


NO_OPINION = 0.5
"""What a candidate weighs, and where it is ranked, of which the scorer has no opinion: between right and wrong."""


def score(candidate: Candidate) -> float:
    """Of one that was not scored, nothing."""
    if candidate.score is None:
        return NO_OPINION if candidate.scores else 0.0
    return candidate.score


def fold(scores: Sequence[float | None], how: Aggregate) -> float | None:
    """One number from the scores of the steps; None where there is no opinion of any."""
    known = [score for score in scores if score is not None]
    if not known:
        return None
    match how:
        case "last":
            return known[-1]
        case "min":
            return min(known)
        case "mean":
            return sum(known) / len(known)
        case "prod":
            return math.prod(known)


def by_selection(candidates: Sequence[Candidate], how: Selection) -> Round:
    """Rank answers as a strategy chooses among independent samples."""
    match how:
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
