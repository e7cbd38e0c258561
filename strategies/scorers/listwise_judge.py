"""A served model is shown all answers at once and asked for the best: LLM-as-a-judge selection, as in the survey of Lai
et al., 2025 ("A Survey of Post-Training Scaling in Large Language Models", ACL 2025).

The answers are shuffled, by the request's seed, since judges prefer some positions. The score of an answer is the
probability of its letter: one generated token for the whole round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_letters
from typing import ClassVar

from strategies.errors import InvalidParameter
from strategies.scorers.labels import ModelScorer, Served, as_chat, read_labels, shorten
from strategies.types import Candidate, Chat, ScorerContext

PROMPT = """Here is a question and {count} candidate answers.

Question:
{question}

{answers}

Which answer is the best: correct, and reasoned without a mistake? Reply with its letter alone."""


@dataclass(frozen=True, slots=True)
class ListwiseJudge(ModelScorer):
    """Asks once for the best of all candidates."""

    type: ClassVar[str] = "listwise_judge"
    summary: ClassVar[str] = "A served model is shown all answers, shuffled, and asked for the best."
    cost: ClassVar[str] = "one generated token in all"
    comparative: ClassVar[bool] = True

    def tokens(self, judgements: int) -> int:
        if judgements > len(ascii_letters):
            raise InvalidParameter(
                "strategy.samples", f"a listwise judge compares at most {len(ascii_letters)} samples, not {judgements}"
            )
        return 1

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        places = list(range(len(candidates)))
        Random(session.seed or 0).shuffle(places)
        letters = ascii_letters[26:] + ascii_letters[:26]
        labels = letters[: len(candidates)]

        def prompt(share: float) -> Chat:
            shown = [f"[{letters[i]}]\n{shorten(candidates[p].shown, share)}" for i, p in enumerate(places)]
            answers = "\n\n".join(shown)
            return as_chat(PROMPT.format(count=len(candidates), question=session.chat.transcript, answers=answers))

        [probabilities] = await read_labels(session, [prompt], labels, Served(session.engine, self.model))
        return [(probabilities[places.index(i)],) for i in range(len(candidates))]
