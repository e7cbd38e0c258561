"""What the scorers share that compute: no tokens, and opinions that say why."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.errors import ScorerError
from strategies.types import Candidate, Check, Checker, ScorerContext, Scores


def checker_of(session: ScorerContext) -> Checker:
    if session.checker is None:
        raise ScorerError("this run has nothing to compute with")
    return session.checker


def checked(
    session: ScorerContext, candidates: Sequence[Candidate], checks: Sequence[Sequence[Check]]
) -> Sequence[Scores]:
    """The scores of some checks, whose reasons the session keeps."""
    for candidate, of_steps in zip(candidates, checks, strict=True):
        session.explain(candidate, [check.reason for check in of_steps])
    return [tuple(check.score for check in of_steps) for of_steps in checks]
