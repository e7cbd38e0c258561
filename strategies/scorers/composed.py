"""Scorers of scorers.

`all` multiplies, and of what one has rejected the next is not asked, which saves its tokens: a filter by tools goes
before a learned verifier, as in the two stages of T1 (Kang et al., 2025, arXiv:2504.04718). `first` takes the first
opinion that there is. Where all parts score steps, so does the whole: the score of a step is made of what the scores of
each part fold to up to it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from strategies.errors import InvalidParameter
from strategies.knobs import knob
from strategies.select import fold, folds
from strategies.types import Aggregate, Candidate, NamedScorer, Scorer, ScorerContext, Scores

MOST_PARTS = 8
Opinions = list[float | None]
"""What one part says of a candidate: of the path up to each step, or of the whole, once."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the scorers, how its steps fold, and what it has said of the paths of this request, by their texts."""

    scorer: Scorer
    aggregate: Aggregate
    known: dict[tuple[str, ...], Scores] = field(default_factory=dict)

    async def opinions(
        self, session: ScorerContext, candidates: Sequence[Candidate], *, stepwise: bool
    ) -> list[Opinions]:
        scored = await self.scorer.score(session, [replace(c, scores=self.recall(c)) for c in candidates])
        if self.scorer.stepwise:
            self.known.update((c.texts, scores) for c, scores in zip(candidates, scored, strict=True) if c.ids)
        if stepwise:
            return [folds(scores, self.aggregate) for scores in scored]
        return [[fold(scores, self.aggregate)] for scores in scored]

    def recall(self, candidate: Candidate) -> Scores:
        """What it has said of the path of a search that this one continues, which has as many scores at least."""
        if not candidate.ids:
            return ()
        texts, least = candidate.texts, max(len(candidate.scores), 1)
        beginnings = (texts[:count] for count in range(len(texts), least - 1, -1))
        return next((self.known[begin] for begin in beginnings if begin in self.known), ())


@dataclass(frozen=True, slots=True)
class Composed(NamedScorer):
    """What `all` and `first` have in common. The service fills `parts` with the scorers that `of` names."""

    of: tuple[str | dict[str, Any], ...] = knob((), "Scorers, by name or as objects.", max_length=MOST_PARTS)
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if len(self.of) < 2:
            raise InvalidParameter("strategy.scorer.of", "must name at least two scorers")
        if sum(part.scorer.logprobs is not None for part in self.parts) > 1:
            raise InvalidParameter("strategy.scorer.of", "only one of them may read the samples' own log-probabilities")

    @property
    def scorers(self) -> list[Scorer]:
        return [part.scorer for part in self.parts]

    @property
    def stepwise(self) -> bool:
        return all(scorer.stepwise for scorer in self.scorers)

    @property
    def comparative(self) -> bool:
        return any(scorer.comparative for scorer in self.scorers)

    @property
    def logprobs(self) -> int | None:
        return next((scorer.logprobs for scorer in self.scorers if scorer.logprobs is not None), None)

    def confidence(self, token: Mapping[str, Any]) -> float | None:
        return next((s.confidence(token) for s in self.scorers if s.logprobs is not None), None)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(model for scorer in self.scorers for model in scorer.models))

    def tokens(self, judgements: int) -> int:
        return sum(scorer.tokens(judgements) for scorer in self.scorers)

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> Sequence[Scores]:
        """One part after the other, each asked only of the candidates that are not yet decided."""
        said: list[list[Opinions]] = [[] for _ in candidates]
        for part in self.parts:
            asked = [index for index, opinions in enumerate(said) if not self.decided(opinions)]
            if asked:
                shown = [candidates[index] for index in asked]
                told = await part.opinions(session, shown, stepwise=self.stepwise)
                for index, opinions in zip(asked, told, strict=True):
                    said[index].append(opinions)
        joined = [tuple(map(self.join, zip(*opinions, strict=True))) for opinions in said]
        if not self.stepwise:
            return joined
        return [c.scores + scores[len(c.scores) :] for c, scores in zip(candidates, joined, strict=True)]

    @abstractmethod
    def decided(self, said: Sequence[Opinions]) -> bool:
        """Whether what the parts have said so far of a candidate leaves nothing to ask."""

    @abstractmethod
    def join(self, opinions: Sequence[float | None]) -> float | None:
        """One opinion of those of the parts."""


@dataclass(frozen=True, slots=True)
class All(Composed):
    """Multiplies the scores of several scorers; what one scores 0 the next are not shown."""

    type: ClassVar[str] = "all"
    summary: ClassVar[str] = "The product of several scorers: a filter, then a verifier of what passed it."
    cost: ClassVar[str] = "that of its scorers; what the first rejects costs nothing of the next"

    def decided(self, said: Sequence[Opinions]) -> bool:
        return any(opinions[-1] == 0 for opinions in said)

    def join(self, opinions: Sequence[float | None]) -> float | None:
        known = [opinion for opinion in opinions if opinion is not None]
        return math.prod(known) if known else None


@dataclass(frozen=True, slots=True)
class First(Composed):
    """Takes the score of the first scorer that has an opinion; the next are asked of the others."""

    type: ClassVar[str] = "first"
    summary: ClassVar[str] = "The first of several scorers that has an opinion."
    cost: ClassVar[str] = "that of its scorers; what the first has an opinion of costs nothing of the next"

    def decided(self, said: Sequence[Opinions]) -> bool:
        return any(opinions[-1] is not None for opinions in said)

    def join(self, opinions: Sequence[float | None]) -> float | None:
        return next((opinion for opinion in opinions if opinion is not None), None)
