"""P(True): the model is asked whether its own answer is correct (Kadavath et al., 2022, arXiv:2207.05221), as in the
confidence-informed vote of CISC (Taubenfeld et al., 2025, arXiv:2502.06233).

The question stands behind the conversation and the answer, so that all but its few tokens come from the prefix cache.
Deviations: it is a turn of its own, as a chat template has it, where CISC goes on in the turn of the answer; the
probability is P(1) / (P(1) + P(0)), without what the model would rather have said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from strategies.scorers.labels import ModelScorer, Served, read_labels, shorten
from strategies.types import Candidate, Chat, Message, ScorerContext, plain_text

LABELS = ("1", "0")
QUESTION = "Is this answer correct? Reply with 1 if you think that it is correct, or with 0 if not; one digit alone."


@dataclass(frozen=True, slots=True)
class PTrue(ModelScorer):
    """Asks of every candidate by itself, all in one request of one token each."""

    type: ClassVar[str] = "p_true"
    summary: ClassVar[str] = (
        "The model is asked whether its own answer is correct; the score is the probability of yes."
    )
    cost: ClassVar[str] = "one generated token a sample, all in one request, the rest from the prefix cache"

    def tokens(self, judgements: int) -> int:
        return judgements

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        prompts = [partial(self.prompt, session.chat, candidate.shown) for candidate in candidates]
        verdicts = await read_labels(session, prompts, LABELS, Served(session.engine, self.model))
        return [(true,) for true, _ in verdicts]

    def prompt(self, chat: Chat, answer: str, share: float) -> Chat:
        """The conversation up to the question; with what shapes the prompt, for the prefix cache, where the model is
        the one that answered."""
        turns = (*answered(chat.messages, shorten(answer, share)), {"role": "user", "content": QUESTION})
        return Chat(turns, {} if self.model else asked_anew(chat.fields))


def answered(messages: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """The conversation with the answer; one that goes on with the last message is a turn with it."""
    *before, last = messages
    if last.get("role") == "assistant":
        return (*before, {"role": "assistant", "content": plain_text(last.get("content")) + answer})
    return (*messages, {"role": "assistant", "content": answer})


def asked_anew(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without the one that would keep the model from answering."""
    return {name: value for name, value in fields.items() if name != "add_generation_prompt"}
