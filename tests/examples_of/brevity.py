"""The scorer of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from strategies.knobs import knob
from strategies.types import Candidate, NamedScorer, ScorerContext


@dataclass(frozen=True, slots=True)
class Brevity(NamedScorer):
    """Shorter chains of thought are right more often (Hassid et al., 2025, arXiv:2505.17813)."""

    type: ClassVar[str] = "brevity"
    summary: ClassVar[str] = "Prefers short answers."
    cost: ClassVar[str] = "nothing"

    half: int = knob(256, "Tokens after which the score has halved.", ge=1, le=65536)

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        return [(0.5 ** (candidate.tokens / self.half),) for candidate in candidates]
