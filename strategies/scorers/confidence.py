"""How sure the model was of its own samples: no further call, but log-probabilities at every token.

* `logprob`: the geometric mean of the sampled tokens' probabilities, exp(1/n sum log p(y_i)); the length-normalised
  probability of Wang et al., 2022 (arXiv:2203.11171).
* `self_certainty` (Kang et al., 2025, arXiv:2502.18581): the KL divergence of the next-token distribution from the
  uniform one, averaged over tokens. Deviation: over the k = 20 most likely tokens in place of the vocabulary, which
  vLLM would have to return whole. With C = -1/(nk) sum_i sum_j log(k p_ij), which is >= 0, the score is 1 - exp(-C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any, ClassVar

from strategies.types import Candidate, NamedScorer, ScorerContext

TOP = 20
FLOOR = -100.0  # engines write minus infinity in many ways


def mean(candidate: Candidate) -> float | None:
    """Over the tokens of all steps; None without any."""
    tokens = sum(len(step.confidences) for step in candidate.steps)
    return math.fsum(chain.from_iterable(step.confidences for step in candidate.steps)) / tokens if tokens else None


@dataclass(frozen=True, slots=True)
class Logprob(NamedScorer):
    """Reads how probable the sample was."""

    type: ClassVar[str] = "logprob"
    summary: ClassVar[str] = "The length-normalised probability of the sample."
    cost: ClassVar[str] = "none but log-probabilities"
    logprobs: ClassVar[int] = 0

    def tokens(self, judgements: int) -> int:
        return 0

    def confidence(self, token: Mapping[str, Any]) -> float:
        return max(float(token["logprob"]), FLOOR)

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        means = map(mean, candidates)
        return [(math.exp(FLOOR if value is None else value),) for value in means]


@dataclass(frozen=True, slots=True)
class SelfCertainty(NamedScorer):
    """Reads how sure the model was at every token."""

    type: ClassVar[str] = "self_certainty"
    summary: ClassVar[str] = "How far the next-token distributions were from uniform."
    cost: ClassVar[str] = "none but log-probabilities"
    logprobs: ClassVar[int] = TOP

    def tokens(self, judgements: int) -> int:
        return 0

    def confidence(self, token: Mapping[str, Any]) -> float | None:
        """The divergence at one token, in nats; 0 for a uniform model."""
        row = [max(top["logprob"], FLOOR) for top in token["top_logprobs"]]
        return max(-(math.log(len(row)) + fmean(row)), 0.0) if row else None

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        return [(1 - math.exp(-(mean(candidate) or 0.0)),) for candidate in candidates]
