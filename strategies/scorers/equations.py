"""Whether the equalities hold that a solution asserts: computed, not judged.

Small models verify badly what they would have to memorise, and tools do it well: T1, Tool-integrated Self-verification
(Kang et al., 2025, arXiv:2504.04718), whose first stage this is. Deviation: T1 has the model write a program for each
step; here the equalities that it states are evaluated as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from strategies.scorers.computed import checked, checker_of
from strategies.types import Aggregate, Candidate, NamedScorer, ScorerContext, Scores


@dataclass(frozen=True, slots=True)
class Equations(NamedScorer):
    """Evaluates every equality of every step: 1 when all hold, 0 when one is false, and no opinion of a step that
    asserts none."""

    type: ClassVar[str] = "equations"
    summary: ClassVar[str] = "Computes whether the equations hold that each step states."
    cost: ClassVar[str] = "no tokens"
    stepwise: ClassVar[bool] = True
    aggregate: ClassVar[Aggregate] = "min"

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> Sequence[Scores]:
        return checked(session, candidates, await checker_of(session).equations([c.texts for c in candidates]))
