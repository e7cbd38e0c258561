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
from statistics import fmean
from typing import Any, ClassVar

from strategies.types import Candidate, NamedScorer, ScorerContext

TOP = 20
FLOOR = -100.0  # engines write minus infinity in many ways


def own(candidate: Candidate) -> list[Mapping[str, Any]]:
    return [token for step in candidate.steps for token in step.logprobs]


@dataclass(frozen=True, slots=True)
class Logprob(NamedScorer):
    """Reads how probable the sample was."""

    type: ClassVar[str] = "logprob"
    summary: ClassVar[str] = "The length-normalised probability of the sample."
    cost: ClassVar[str] = "none but log-probabilities"
    logprobs: ClassVar[int] = 0

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        return [(math.exp(mean_logprob(own(candidate))),) for candidate in candidates]


@dataclass(frozen=True, slots=True)
class SelfCertainty(NamedScorer):
    """Reads how sure the model was at every token."""

    type: ClassVar[str] = "self_certainty"
    summary: ClassVar[str] = "How far the next-token distributions were from uniform."
    cost: ClassVar[str] = "none but log-probabilities"
    logprobs: ClassVar[int] = TOP

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        return [(1 - math.exp(-certainty(own(candidate))),) for candidate in candidates]


def mean_logprob(tokens: Sequence[Mapping[str, Any]]) -> float:
    return fmean(max(token["logprob"], FLOOR) for token in tokens) if tokens else FLOOR


def certainty(tokens: Sequence[Mapping[str, Any]]) -> float:
    """C of the module's docstring, in nats; 0 for a uniform model and for no tokens."""
    listed = [[max(top["logprob"], FLOOR) for top in token["top_logprobs"]] for token in tokens]
    rows = [-(math.log(len(row)) + fmean(row)) for row in listed if row]
    return max(fmean(rows), 0.0) if rows else 0.0
