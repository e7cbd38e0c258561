"""its-hub as a library, since its service has self-consistency alone and drops the temperature.

Its searches and its best-of-n want a reward model. They get ours: whether the equations of each step hold, computed by
the very code of the scorer `equations` (`service/answers/equations`, standard library only), at no tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from its_hub import (
    AdaptiveSelfConsistency,
    BestOfN,
    BetaSelfConsistency,
    OpenAICompatibleLanguageModel,
    SelfConsistency,
    StepGeneration,
)
from its_hub.api import AbstractOutcomeRewardModel, AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
from its_hub.core.algorithms.self_consistency import create_regex_projection_function

from benchmarks.peers.runners.asking import Ask, Task, answer_questions, read_task
from service.answers.equations import check_solution

DELIMITER = "\n\n"
BOXED = r"\\boxed\{([^}]+)\}"
"""The pattern of its documentation."""
MAX_STEPS = 8
WIDTH = 4
"""Next steps of each beam that stays in a round: our default `width`."""
NO_OPINION = 0.5


def score_text(text: str) -> float:
    """As `equations` has it: the worst step with an opinion, and between right and wrong where there is none."""
    verdicts = [step.holds for step in check_solution(text.split(DELIMITER)) if step.holds is not None]
    return float(min(verdicts)) if verdicts else NO_OPINION


class Steps(AbstractProcessRewardModel):  # type: ignore[misc]
    """Scores paths, of which its searches hand over the whole texts."""

    def score(self, prompt_or_messages: Any, steps: Sequence[str]) -> list[float]:
        return [score_text(text) for text in steps]

    async def ascore(self, prompt_or_messages: Any, steps: Sequence[str]) -> list[float]:
        return self.score(prompt_or_messages, steps)


class Answers(AbstractOutcomeRewardModel):  # type: ignore[misc]
    """Scores conversations by their last message."""

    def score(self, messages: Any, **_: Any) -> list[float]:
        return [score_text(conversation[-1].content or "") for conversation in messages]

    async def ascore(self, messages: Any, orchestrator: Any = None, **_: Any) -> list[float]:
        return self.score(messages)


def algorithm(task: Task) -> Any:
    """Its algorithm of a method, with its own defaults where it has some."""
    vote = {"consistency_space_projection_func": create_regex_projection_function(BOXED)}
    step = StepGeneration(max_steps=MAX_STEPS, step_token=DELIMITER, stop_token=r"\boxed", temperature=task.temperature)
    made = {
        "self_consistency": partial(SelfConsistency, **vote),
        "adaptive": partial(AdaptiveSelfConsistency, **vote),
        "beta": partial(BetaSelfConsistency, **vote),
        "best_of_n": partial(BestOfN, Answers()),
        "beam_search": partial(BeamSearch, step, Steps(), beam_width=task.samples // WIDTH),
        "particle_filter": partial(ParticleFiltering, step, Steps()),
    }
    return made[task.method]()


def asking(task: Task, lm: Any) -> Ask:
    chosen = algorithm(task)

    async def ask(question: str) -> str:
        reply = await chosen.ainfer(lm, question, budget=task.samples)
        return str(reply["content"] or "")

    return ask


async def run(task: Task) -> None:
    searches = task.method in ("beam_search", "particle_filter")
    async with OpenAICompatibleLanguageModel(
        endpoint=task.url,
        api_key=task.key,
        model_name=task.model,
        max_completion_tokens=task.step_tokens if searches else task.max_tokens,
        temperature=task.temperature,
    ) as lm:
        await answer_questions(task, asking(task, lm))


if __name__ == "__main__":
    asyncio.run(run(read_task()))
