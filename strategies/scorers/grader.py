"""A grader of the fine-tuning API as a scorer, over the answer and a row of the caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from strategies.errors import InvalidParameter
from strategies.knobs import knob
from strategies.scorers.computed import checked, checker_of
from strategies.types import Candidate, NamedScorer, ScorerContext, Scores


@dataclass(frozen=True, slots=True)
class Grader(NamedScorer):
    """Grades every answer as a fine-tuning job or a benchmark would."""

    type: ClassVar[str] = "grader"
    summary: ClassVar[str] = "Any grader of the fine-tuning API."
    cost: ClassVar[str] = "no tokens of the run's engine; a `score_model` asks its model"

    grader: dict[str, Any] | None = knob(None, "The grader, as /v1/fine_tuning/alpha/graders/run takes it.")
    item: dict[str, Any] | None = knob(None, "What the grader reads as `item`.")

    def __post_init__(self) -> None:
        if not self.grader:
            raise InvalidParameter("strategy.scorer.grader", "must be a grader: an object with a type")

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> Sequence[Scores]:
        checks = await checker_of(session).grade(candidates, self.grader or {}, self.item or {})
        return checked(session, candidates, [[check] for check in checks])
