"""A process reward model under vLLM's pooling runner: the probability that a step is right, read at the mark behind it.

Formats, which are what the model was trained on:

`token_classification`  two labels at the separator behind every step, as TRL trains them: the ids of the question and
                        of each step, tokenised one by one, each step with the separator's behind it
`qwen`                  Qwen2.5-Math-PRM (Zhang et al., 2025, arXiv:2501.07301): the steps are the assistant's turn,
                        with the token `<extra_0>` behind each

A forward pass reads the whole path, since vLLM does not use its prefix cache for scores of tokens. Such a model is
causal, so the scores that a path has already stand; a path that is too long loses the text of its earliest steps, whose
marks stay, so that there is still a score for every step.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar, Literal

from strategies.errors import ScorerError
from strategies.types import Candidate, Chat, Ids, RewardModel, Rows, Scorer, ScorerContext, Scores

Format = Literal["token_classification", "qwen"]
TAG = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
ELIDED = "…"


@dataclass(frozen=True, slots=True)
class Marked:
    """A prompt and the places of the marks behind its steps."""

    ids: Ids
    marks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prm(Scorer):
    """Rates all steps of all candidates in one request; `name` is what its faults are reported by."""

    stepwise: ClassVar[bool] = True

    name: str
    model: RewardModel
    format: Format = "token_classification"
    separator: str = "\n"
    pieces: dict[str, Ids] = field(default_factory=dict)  # the ids of texts, which the paths of a search share

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[Scores]:
        question = session.chat.transcript
        prompts = await asyncio.gather(*(self.fit(session, question, c.texts) for c in candidates))
        ratings = await session.rate(self.model, [prompt.ids for prompt in prompts])
        rated = [self.read(prompt, rows) for prompt, rows in zip(prompts, ratings, strict=True)]
        return [c.scores + scores[len(c.scores) :] for c, scores in zip(candidates, rated, strict=True)]

    async def fit(self, session: ScorerContext, question: str, steps: Sequence[str]) -> Marked:
        """The prompt, without the text of so many early steps as it takes to fit the model's context."""
        room = await self.model.context()
        while len((prompt := await self.join_with_marks(question, steps)).ids) > room:
            session.note(f"the context of the scorer {self.name!r} is too short for some paths: it saw their ends only")
            steps = elided(steps, 1 - room / len(prompt.ids))
            if all(step == ELIDED for step in steps):
                raise ScorerError(f"the question does not fit the context of the scorer {self.name!r}, {room} tokens")
        return prompt

    async def join_with_marks(self, question: str, steps: Sequence[str]) -> Marked:
        match self.format:
            case "token_classification":
                return await self.join_with_separator(question, steps)
            case "qwen":
                return await self.join_with_tags(question, steps)

    async def join_with_separator(self, question: str, steps: Sequence[str]) -> Marked:
        start, mark, *parts = await asyncio.gather(
            self.model.tokenize(question, special=True),
            self.piece(self.separator),
            *(self.piece(step.replace(self.separator, " ")) for step in steps),
        )
        lengths = accumulate((len(part) + len(mark) for part in parts), initial=len(start))
        ids = start + tuple(token for part in parts for token in (*part, *mark))
        return Marked(ids, tuple(length - 1 for length in lengths)[1:])

    async def piece(self, text: str) -> Ids:
        if text not in self.pieces:
            self.pieces[text] = await self.model.tokenize(text)
        return self.pieces[text]

    async def join_with_tags(self, question: str, steps: Sequence[str]) -> Marked:
        solution = "".join(step.replace(TAG, "") + TAG for step in steps)
        turns = (("system", SYSTEM), ("user", question.replace(TAG, "")), ("assistant", solution))
        chat = Chat(tuple({"role": role, "content": content} for role, content in turns))
        ids, tag = await asyncio.gather(self.model.render(chat), self.piece(TAG))
        marks = tuple(place for place, token in enumerate(ids) if (token,) == tag)
        if len(marks) != len(steps):
            raise ScorerError(f"the scorer {self.name!r} reads {len(marks)} marks {TAG} for {len(steps)} steps")
        return Marked(ids, marks)

    def read(self, prompt: Marked, rows: Rows) -> tuple[float, ...]:
        """The scores at the marks, of a rating with a row a token, or a row a mark."""
        if len(rows) == len(prompt.ids):
            rows = [rows[place] for place in prompt.marks]
        if len(rows) != len(prompt.marks):
            raise ScorerError(f"the scorer {self.name!r} returned {len(rows)} scores for {len(prompt.marks)} steps")
        return tuple(probability(self.name, row) for row in rows)


def elided(steps: Sequence[str], share: float) -> list[str]:
    """The steps without the text of the earliest, until at least this share of the characters is gone."""
    excess = share * sum(map(len, steps))
    kept = list(steps)
    for place, step in enumerate(steps):
        if step != ELIDED:
            kept[place], excess = ELIDED, excess - len(step)
            if excess <= 0:
                break
    return kept


def probability(name: str, row: Sequence[float]) -> float:
    """The probability of the last label: of the only one, or of the positive one of two."""
    proper = all(0 <= p <= 1 for p in row) and (len(row) == 1 or math.isclose(sum(row), 1, abs_tol=0.01))
    if not row or not proper:
        raise ScorerError(f"the scorer {name!r} returned {list(row)[:4]}, which are no probabilities of labels")
    return row[-1]
