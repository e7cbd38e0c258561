"""How much of everything the claims need beside the lab, and which questions their trainings may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.lab.jobs import Lab
from benchmarks.lab.scale import QUESTIONS_A_STEP, Scale, Sizes, train_parts
from service.benchmarks.arithmetic import Problem, generate
from service.commands.client import CommandError


@dataclass(frozen=True, slots=True)
class Amounts:
    """A round of SFT is so many steps of 16 rows; another one follows until the validation loss no longer falls."""

    samples: Sizes = (1, 2, 4, 8, 16, 32, 64)  # of both sizes of model
    base_samples: int = 16  # of the base, by the search that the SFT model has in the lab
    rows: int = 1920  # the same for both sizes
    held_out: int = 32
    rounds: int = 4  # the most
    large_steps: int = 30
    small_steps: int = 120  # its layers have to learn to follow each other again
    large_rate: float = 1.0  # of the worker's own learning rate
    small_rate: float = 4.0
    rewarded_steps: Sizes = (2, 5, 20)  # of GRPO, beside the lab's


QUICK = Amounts(
    samples=(1, 2, 4),
    base_samples=4,
    rows=128,
    held_out=8,
    rounds=2,
    large_steps=4,
    small_steps=10,
    rewarded_steps=(2, 3),
)


def train_rows(scale: Scale, amounts: Amounts) -> Mapping[str, list[Problem]]:
    """`sft` of both sizes of model; `grpo` begins with the lab's own questions, so that a greater budget has seen what
    a smaller one has. The others are in none of the lab's trainings."""
    lab = train_parts(scale)
    known = sum(map(len, lab.values()))
    more = max(0, QUESTIONS_A_STEP * max(amounts.rewarded_steps) - len(lab["grpo"]))
    others = generate(known + amounts.rows + more, **scale.difficulty, split="train")[known:]
    return {"sft": others[: amounts.rows], "grpo": lab["grpo"] + others[amounts.rows :]}


def held_out(scale: Scale, amounts: Amounts) -> list[Problem]:
    """By whose loss it is seen whether a model still learns."""
    return generate(amounts.held_out, **scale.difficulty, split="validation")


def agree(lab: Lab, amounts: Amounts) -> None:
    """Write the amounts down; raise CommandError where the folder has claims of others, which would be mixed."""
    asked: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(amounts).items()}
    if lab.state.setdefault("claims", {"amounts": asked})["amounts"] != asked:
        raise CommandError(f"{lab.folder} holds claims of other amounts: move it away, or choose another --folder")
    lab.save()
