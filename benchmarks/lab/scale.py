"""How much of everything, and which questions a training may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from service.benchmarks.arithmetic import Problem, generate

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """The default fits two hours on two cores. Questions of smaller comparisons are the first of the larger ones."""

    operations: int = 4
    digits: int = 1
    max_tokens: int = 96  # of an answer
    # Comparisons
    tests: int = 100  # questions
    searched: int = 40  # of searches by `equations`
    guided: int = 24  # of searches by the verifier, which take longer
    once: Sizes = (1,)
    sampled: Sizes = (1, 2, 4, 8, 16)
    judged: Sizes = (1, 2, 4, 8, 12)  # samples that the verifier scores
    combined: Sizes = (1, 2, 4, 8)  # samples that `equations` and the verifier score
    stopped: Sizes = (4, 8, 16)  # the most samples under a rule that stops
    searches: Sizes = (2, 4, 8)
    base_samples: int = 2  # for pass@1, majority and pass@k
    grpo_samples: int = 8
    model_samples: int = 4  # of every other trained model
    # SFT
    examples: int = 448
    sft_steps: int = 28
    # the verifier
    marked: int = 140  # questions
    solutions: int = 8
    rollouts: int = 1
    verifier_steps: int = 40
    # GRPO
    rewarded: int = 40  # questions, four a step
    group: int = 8
    # DPO
    preferred: int = 80  # questions
    answers: int = 8
    dpo_steps: int = 10
    # the loop
    weak: int = 64  # examples that it begins with
    weak_steps: int = 12
    asked: int = 50  # questions a round
    tries: int = 10  # K
    kept: int = 3  # of a question's right answers
    round_steps: int = 8  # of SFT
    round_dpo_steps: int = 6

    @property
    def difficulty(self) -> dict[str, Any]:
        return {"steps": self.operations, "digits": self.digits}

    @property
    def grpo_steps(self) -> int:
        return self.rewarded // QUESTIONS_A_STEP


QUESTIONS_A_STEP = 4
"""Of GRPO."""

QUICK = Scale(
    operations=2,
    max_tokens=64,
    tests=6,
    searched=4,
    guided=3,
    sampled=(1, 2, 4),
    judged=(1, 2, 4),
    combined=(1, 2, 4),
    stopped=(3, 4),
    searches=(2, 4),
    base_samples=1,
    grpo_samples=2,
    model_samples=2,
    examples=192,
    sft_steps=12,
    marked=4,
    solutions=4,
    rollouts=1,
    verifier_steps=2,
    rewarded=4,
    group=4,
    preferred=8,
    answers=6,
    dpo_steps=2,
    weak=96,
    weak_steps=8,
    asked=6,
    tries=4,
    kept=2,
    round_steps=2,
    round_dpo_steps=2,
)


def train_parts(scale: Scale) -> Mapping[str, list[Problem]]:
    """The questions of every training: none is in two of them, and none is a test question, which have a split of
    their own."""
    sizes = {
        "sft": scale.examples,
        "verifier": scale.marked,
        "grpo": scale.rewarded,
        "dpo": scale.preferred,
        "weak": scale.weak,
        "round 1": scale.asked,
        "round 2": scale.asked,
        "human": 2 * scale.asked * scale.kept,  # as many as both rounds can keep
    }
    problems = iter(generate(sum(sizes.values()), **scale.difficulty, split="train"))
    return {name: list(islice(problems, size)) for name, size in sizes.items()}
