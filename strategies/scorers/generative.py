"""A generative process reward model: the probability of a positive label behind each step, read off one token.

It works on the policy's own server, so that search needs no second engine: the question and the earlier steps come from
the prefix cache, and only new steps are scored. Formats:

`yes_no`         any served model, asked whether the solution is correct so far; the default
`rlhflow`        RLHFlow's reward models (Xiong et al., 2024, "An Implementation of Generative PRM"): every step is a
                 user's turn that the model answers with `+` or `-`
`math_shepherd`  Math-Shepherd (Wang et al., 2023, arXiv:2312.08935): `+` or `-` behind the tag `ки` that ends a step.
                 These are the two logits that its authors read at the tag; vLLM's pooling runner does not return them
                 (of a causal model it offers hidden states only)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from strategies.knobs import knob
from strategies.scorers.labels import ModelScorer, Prompt, Served, as_chat, read_labels, shorten
from strategies.types import Candidate, Chat, Engine, ScorerContext, Scores

Format = Literal["yes_no", "rlhflow", "math_shepherd"]
LABELS: dict[Format, tuple[str, str]] = {"yes_no": ("Yes", "No"), "rlhflow": ("+", "-"), "math_shepherd": ("+", "-")}
TAG = "ки"
PROMPT = """Question:
{question}

Solution so far:
{solution}

Is the solution correct so far, up to its last step? Reply Yes or No."""


@dataclass(frozen=True, slots=True)
class Generative(ModelScorer):
    """Asks after every new step whether the solution is correct so far; all candidates and steps in one request."""

    type: ClassVar[str] = "generative"
    summary: ClassVar[str] = "A served model says after each step whether the solution is correct so far."
    cost: ClassVar[str] = "one generated token a step, the rest from the prefix cache"
    stepwise: ClassVar[bool] = True

    format: Format = knob("yes_no", "What the model was trained on; `yes_no` asks any model.")
    engine: Engine | None = None  # of another server than the policy's

    def tokens(self, judgements: int) -> int:
        return judgements

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[Scores]:
        new = [range(len(candidate.scores), len(candidate.texts)) for candidate in candidates]
        prompts = [
            self.prompt(session.chat.transcript, candidate, position + 1)
            for candidate, positions in zip(candidates, new, strict=True)
            for position in positions
        ]
        judge = Served(self.engine or session.engine, self.model)
        verdicts = iter(await read_labels(session, prompts, LABELS[self.format], judge) if prompts else [])
        return [
            candidate.scores + tuple(next(verdicts)[0] for _ in positions)
            for candidate, positions in zip(candidates, new, strict=True)
        ]

    def prompt(self, question: str, candidate: Candidate, count: int) -> Prompt:
        """What is asked of the last of so many steps."""
        match self.format:
            case "yes_no":
                return partial(yes_no, question, candidate.up_to(count))
            case "rlhflow":
                return partial(rlhflow, question, candidate.texts[:count])
            case "math_shepherd":
                return partial(math_shepherd, question, candidate.texts[:count])


def yes_no(question: str, solution: str, share: float) -> Chat:
    return as_chat(PROMPT.format(question=question, solution=shorten(solution, share)))


def rlhflow(question: str, steps: Sequence[str], share: float) -> Chat:
    """The question and the first step are one turn; every earlier step was answered with `+`, as in the training."""
    first, *others = recent(steps, share)
    turns = [{"role": "user", "content": f"{question} {first}"}]
    for step in others:
        turns += [{"role": "assistant", "content": "+"}, {"role": "user", "content": step}]
    return Chat(tuple(turns))


def math_shepherd(question: str, steps: Sequence[str], share: float) -> str:
    """A line a step, with the tag behind each; a tag that is in a step already would stand for another step."""
    lines = (" ".join(step.replace(TAG, "").split()) for step in recent(steps, share))
    return f"{question} " + "\n".join(f"{line} {TAG}" for line in lines)


def recent(steps: Sequence[str], share: float) -> list[str]:
    """The last `share` of the steps, and of the last one when even that is too long."""
    kept = list(steps[len(steps) - max(int(len(steps) * share), 1) :])
    return kept if len(kept) > 1 else [shorten(kept[0], share)]
