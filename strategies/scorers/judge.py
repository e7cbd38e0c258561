"""A served model grades each answer (Zheng et al., 2023, "Judging LLM-as-a-Judge", arXiv:2306.05685), pointwise.

The score is the expectation over the grade token's probabilities, as in G-Eval (Liu et al., 2023, arXiv:2303.16634), so
that near answers do not tie and nothing has to be parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from strategies.scorers.labels import ModelScorer, Served, as_chat, read_labels, shorten
from strategies.types import Candidate, Chat, ScorerContext

GRADES = ("1", "2", "3", "4", "5")
PROMPT = """Grade an answer to a question.

Question:
{question}

Answer:
{answer}

How likely is the final answer to be correct, from 1 (certainly wrong) to 5 (certainly correct)? \
Reply with the grade alone, one digit."""


@dataclass(frozen=True, slots=True)
class Judge(ModelScorer):
    """Grades every candidate by itself, all in one request of one token each."""

    type: ClassVar[str] = "judge"
    summary: ClassVar[str] = "A served model grades each answer from 1 to 5; the score is the expected grade."
    cost: ClassVar[str] = "one generated token a sample, all in one request"

    def tokens(self, judgements: int) -> int:
        return judgements

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        prompts = [partial(self.prompt, session.chat.transcript, candidate.shown) for candidate in candidates]
        verdicts = await read_labels(session, prompts, GRADES, Served(session.engine, self.model))
        return [(expectation(grades),) for grades in verdicts]

    def prompt(self, question: str, answer: str, share: float) -> Chat:
        return as_chat(PROMPT.format(question=question, answer=shorten(answer, share)))


def expectation(probabilities: Sequence[float]) -> float:
    """The mean of equidistant grades from 0 to 1."""
    return sum(p * grade for grade, p in enumerate(probabilities)) / (len(probabilities) - 1)
