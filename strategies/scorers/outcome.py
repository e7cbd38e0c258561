"""An outcome reward model (Cobbe et al., 2021, arXiv:2110.14168): a sequence classifier that reads a whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from strategies.errors import ScorerError
from strategies.scorers.labels import shorten, shorten_to_fit
from strategies.scorers.prm import probability
from strategies.types import Candidate, Chat, Ids, RewardModel, Scorer, ScorerContext


@dataclass(frozen=True, slots=True)
class OutcomeReward(Scorer):
    """Rates all candidates in one request, each as the last turn of the conversation."""

    name: str
    model: RewardModel

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        prompts = await asyncio.gather(*(self.fit(session, candidate.shown) for candidate in candidates))
        ratings = await session.rate(self.model, prompts)
        if any(len(rows) != 1 for rows in ratings):
            raise ScorerError(f"the scorer {self.name!r} did not return one score for each answer")
        return [(probability(self.name, rows[0]),) for rows in ratings]

    async def fit(self, session: ScorerContext, answer: str) -> Ids:
        """The conversation with the answer, or with so much of its end as fits the model's context."""
        room = await self.model.context()
        remark = f"the context of the scorer {self.name!r} is too short for some answers: it saw their ends"
        problem = f"the question does not fit the context of the scorer {self.name!r}, {room} tokens"

        async def at(share: float) -> Ids:
            return await self.model.render(answered(session.chat, shorten(answer, share)))

        return await shorten_to_fit(session, at, room, remark, problem)


def answered(chat: Chat, answer: str) -> Chat:
    return Chat((*chat.messages, {"role": "assistant", "content": answer}))
