"""What the lab does, in its order, and how long it should take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain

from rich.console import Console
from rich.table import Table

from benchmarks.lab import training
from benchmarks.lab.jobs import Lab, Request, Skipped, Stage
from benchmarks.lab.policies import POLICIES, Policy, stage
from benchmarks.lab.scale import Scale
from benchmarks.lab.training import BASE, DPO, GRPO, HUMAN, ROUNDS, WEAK, measure

ANSWER = 47
"""Tokens of an answer after SFT, of the default difficulty."""
START = 0.8
"""Minutes until a vLLM with a checkpoint's weights answers."""
SPEED: Mapping[str, float] = {"best_of_n": 220.0, "self_consistency": 200.0}
SEARCH_SPEED, GUIDED_SPEED = 170.0, 110.0
"""Tokens a second on two cores."""
SEQUENCE = 0.8 / 60
"""Minutes that SFT takes for a sequence. A pair of DPO is two that are multiplied in float32, an answer of GRPO is one
that is sampled first, and a sequence of a verifier was sampled and labelled before."""

Create = Callable[[Lab], Request | Skipped]


def stages(scale: Scale) -> list[Stage]:
    """All of them. What trains on the serving vLLM comes before what has a vLLM of its own."""
    return [
        measure(BASE, scale, partial(sampled, tokens=79)),
        trained("sft", "SFT, published as an adapter", training.sft, 16 * scale.sft_steps),
        trained("sft, merged", "the same weights, merged", training.merge_sft, 1),
        trained("grpo", "GRPO from SFT", training.grpo, 2 * scale.grpo_steps * 4 * scale.group),
        measure(GRPO, scale, started),
        trained("verifier", "process labels and the verifier", training.verifier, 1.1 * 16 * scale.verifier_steps),
        *(stage(name, policy, scale, compared(policy, scale)) for name, policy in POLICIES.items()),
        answered("preferences", training.preferences, scale.preferred * scale.answers),
        trained("dpo", "DPO with a share of SFT's loss", training.dpo, 2 * 8 * scale.dpo_steps),
        measure(DPO, scale, started),
        trained("weak", "SFT on few examples, with which the loop begins", training.weak, 16 * scale.weak_steps),
        measure(WEAK, scale, started),
        *chain.from_iterable(loop(each, scale) for each in ROUNDS),
        trained("human", "SFT on human-like solutions", training.human, 16 * len(ROUNDS) * scale.round_steps),
        measure(HUMAN, scale, started),
    ]


def loop(each: training.Round, scale: Scale) -> list[Stage]:
    return [
        answered(f"{each.name}: answers", each.answers, scale.asked * scale.tries),
        answered(f"{each.name}: hints", each.hints, scale.asked * scale.tries / 4),
        trained(f"{each.name}: SFT", "SFT on the best answers", each.sft, 16 * scale.round_steps),
        trained(f"{each.name}: DPO", "DPO with a share of SFT's loss", each.dpo, 2 * 8 * scale.round_dpo_steps),
        measure(training.AFTER[each], scale, started),
    ]


def trained(name: str, about: str, create: Create, sequences: float) -> Stage:
    return Stage(name, about, 0.5 + sequences * SEQUENCE, create)


def answered(name: str, create: Create, answers: float) -> Stage:
    return Stage(name, "answers sampled and graded", sampled(answers), create)


def started(answers: float) -> float:
    """With weights that have to be loaded first."""
    return START + sampled(answers)


def sampled(answers: float, tokens: int = ANSWER) -> float:
    return answers * tokens / SPEED["best_of_n"] / 60


def compared(policy: Policy, scale: Scale) -> float:
    """A size that stops early draws half; the smaller sizes of what does not are read off the largest."""
    questions, sizes = getattr(scale, policy.questions), getattr(scale, policy.sizes)
    answers = sum(sizes) / 2 if "stop" in policy.strategy else max(sizes)
    speed = SPEED.get(str(policy.strategy["type"]))
    if speed is None:
        answers, speed = sum(sizes), GUIDED_SPEED if policy.questions == "guided" else SEARCH_SPEED
    return float(questions * answers * ANSWER / speed / 60)


def show_plan(console: Console, ahead: list[Stage]) -> None:
    """What is to be done, and how long it should take, before it begins."""
    table = Table("stage", "what", "minutes", box=None)
    for one in ahead:
        table.add_row(one.name, one.about, f"{one.minutes:.1f}")
    console.print(table)
    console.print(f"{len(ahead)} stages, about {sum(one.minutes for one in ahead):.0f} minutes on two cores")
