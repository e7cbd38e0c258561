"""A generative process reward model: the probability of a positive mark behind each step, read off one token.

Any served model will do (Math-Shepherd's and RLHFlow's format reads a `+` behind each step in the same way; an adapter
trained for it does better than a model that was only asked). It works on the policy's own server, so that search needs
no second engine: the question and the earlier steps come from the prefix cache, and only new steps are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from strategies.scorers.labels import Prompt, read_labels, shorten
from strategies.types import Candidate

if TYPE_CHECKING:
    from strategies.run import Session

LABELS = ("Yes", "No")
PROMPT = """Question:
{question}

Solution so far:
{solution}

Is the solution correct so far, up to its last step? Reply Yes or No."""


@dataclass(frozen=True, slots=True)
class Generative:
    """Asks after every new step whether the solution is correct so far; all candidates and steps in one request."""

    model: str | None = None
    logprobs: int | None = None

    def tokens(self, candidates: int) -> int:
        return candidates

    async def score(self, session: Session, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        missing = [range(len(candidate.scores), len(candidate.steps)) for candidate in candidates]
        prompts = [
            self.prompt(session, candidate, position)
            for candidate, positions in zip(candidates, missing, strict=True)
            for position in positions
        ]
        marks = iter(await read_labels(session, prompts, LABELS, self.model) if prompts else [])
        return [
            candidate.scores + tuple(next(marks)[0] for _ in positions)
            for candidate, positions in zip(candidates, missing, strict=True)
        ]

    def prompt(self, session: Session, candidate: Candidate, position: int) -> Prompt:
        solution = "".join(step.text for step in candidate.steps[: position + 1]).strip()
        return partial(self.asked, session.chat.transcript, solution)

    def asked(self, question: str, solution: str, share: float) -> str:
        return PROMPT.format(question=question, solution=shorten(solution, share))
