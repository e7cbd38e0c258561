"""The second part of `make lab`: what computing and stopping are worth, on the model and the questions of the first.

Each policy is a benchmark of the server's own. The SFT model of the first part is used where it is there, else it is
trained first.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from benchmarks.lab import (
    TEMPERATURE,
    Folder,
    Lab,
    Out,
    Quick,
    Rate,
    Scale,
    State,
    conversations,
    difficulty,
    plot_cells,
    powers,
    run_part,
)
from service.benchmarks.arithmetic import generate
from service.commands.client import read_reply
from service.engines.command import on_cpu

Policy = Mapping[str, Any]

ONE_BY_ONE = {"start": 1, "growth": 1.0}
STEPS = {"step": {"max_tokens": 48}, "scorer": "equations"}
POLICIES: dict[str, Policy] = {
    "best of N by equations": {"type": "best_of_n", "scorer": "equations"},
    "best of N by equations, until one is verified": {
        "type": "best_of_n",
        "scorer": "equations",
        "stop": {"rule": "verified"},
        "waves": ONE_BY_ONE,
    },
    "majority, adaptive": {"type": "self_consistency", "stop": {"rule": "adaptive"}, "waves": ONE_BY_ONE},
    "majority, windows of 3": {
        "type": "self_consistency",
        "stop": {"rule": "window", "size": 3},
        "waves": {"start": 3, "growth": 1.0},
    },
    "majority, adaptive, in waves": {"type": "self_consistency", "stop": {"rule": "adaptive"}},
    "beam search by equations": {"type": "beam_search", **STEPS},
    "particle filter by equations": {"type": "particle_filter", **STEPS},
    "MCTS by equations": {"type": "mcts", **STEPS},
}
SAMPLED = "best of N by equations"
"""The policy whose samples tell the plain majority, too."""


def run_policies(lab: Lab) -> dict[str, Any]:
    """Run every policy that is not done."""
    scale = lab.scale
    problems = generate(scale.examples, **difficulty(scale), split="train")
    base = str(read_reply(lab.client.get("/models"))["data"][0]["id"])
    sft = lab.tune("sft", base, partial(conversations, lab, problems), "supervised", max_steps=scale.sft_steps)
    for name, policy in POLICIES.items():
        lab.compare(name, sft, [{**policy, "samples": sizes(policy, scale)}])
    return lab.state


def sizes(policy: Policy, scale: Scale) -> list[int]:
    """All sizes where one run tells of all; the most where a rule stops it; a small one of a search."""
    if "stop" in policy:
        return [scale.samples]
    return powers(scale.samples) if policy["type"] == "best_of_n" else [scale.samples // 4]


def table(state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A cell for every policy and size, each under the policy's name; the plain majority's are read off the samples."""
    for cell in state[f"{SAMPLED}.job"]["results"]:
        yield cell | {"name": "majority of N", "accuracy": cell["majority_at_k"]}
    for name in POLICIES:
        for cell in state[f"{name}.job"]["results"]:
            yield cell | {"name": name}


def row(cell: Mapping[str, Any], scale: Scale) -> str:
    rate, passed = Rate.of(cell["accuracy"], scale.tests), f"{cell['pass_at_k']:.1%}".replace("%", " %")
    return f"| {cell['name']} | {cell['samples']} | {rate} | {passed} | {cell['tokens']['policy']:.0f} |"


def page(state: Mapping[str, Any], scale: Scale) -> str:
    """docs/lab-checking.md."""
    minutes = sum(state[f"{name}.job"]["minutes"] for name in POLICIES)
    return "\n".join(
        [
            "# Checking and stopping",
            "",
            "The second part of `make lab`, on the SFT model and the test questions of [the first](lab.md): candidates "
            "are scored by whether their equations hold (`equations`, no tokens), and sampling stops when it is "
            "decided (`stop`). This page is generated from the results, whatever they are.",
            "",
            f"{scale.tests} questions with {scale.operations} additions or subtractions of numbers of up to "
            f"{scale.digits} digit{'s' * (scale.digits > 1)}. Temperature {TEMPERATURE}, at most {scale.max_tokens} "
            f"tokens per answer, one seed. Machine: {os.cpu_count()} cores ({platform.machine()}), "
            f"{'no GPU' if on_cpu() else 'a GPU'}. Model: the demo model after SFT, 135 M parameters. "
            f"Total time without SFT: {minutes:.0f} minutes.",
            "",
            "| policy | size | accuracy (95 %) | pass@k | tokens |",
            "| --- | --- | --- | --- | --- |",
            *(row(cell, scale) for cell in table(state)),
            "",
            "![Accuracy against tokens and seconds](lab-checking.svg)",
            "",
            "The size is the most samples of a policy that stops, the beams, the particles, or the iterations. "
            "`pass@k` is the accuracy of a perfect selector among what was drawn. Intervals are Wilson intervals over "
            "questions. Policies that stop draw one by one, unless the name says waves (the default sizes).",
            "",
            *verdicts(list(table(state))),
            "",
        ]
    )


def verdicts(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the policies were to reach, and what they did."""
    most = max(cell["samples"] for cell in cells if cell["name"] == "majority of N")
    found = {(cell["name"], cell["samples"]): cell for cell in cells}
    majority, adaptive = found["majority of N", most], found["majority, adaptive", most]
    verified = found["best of N by equations, until one is verified", most]
    saved = adaptive["tokens"]["policy"] / majority["tokens"]["policy"]
    return [
        "## Against the goals",
        "",
        f"- Majority's accuracy at 55 % of its tokens by stopping alone: {adaptive['accuracy']:.1%} against "
        f"{majority['accuracy']:.1%}, at {saved:.0%} of the tokens.",
        f"- 89 % at 120 tokens by `verified`: {verified['accuracy']:.1%} at {verified['tokens']['policy']:.0f} tokens.",
        *(searched(cell, cells) for cell in cells if cell["name"].startswith(("beam", "particle", "MCTS"))),
    ]


def searched(cell: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    """A search beside best-of-N by the same scorer at as many tokens, between its two nearest sizes."""
    tokens = cell["tokens"]["policy"]
    sampled = [(c["tokens"]["policy"], c["accuracy"]) for c in cells if c["name"] == SAMPLED]
    return (
        f"- {cell['name']}, size {cell['samples']}: {cell['accuracy']:.1%} at {tokens:.0f} tokens; best of N by "
        f"equations at as many: {interpolate(sampled, tokens):.1%}."
    )


def interpolate(curve: Sequence[tuple[float, float]], x: float) -> float:
    """The value of a curve at `x`, between its points on a straight line, and beyond them that of the last."""
    points = sorted(curve)
    for (left, low), (right, high) in pairwise(points):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return points[0][1] if x < points[0][0] else points[-1][1]


def draw(state: Mapping[str, Any]) -> str:
    return plot_cells([cell | {"model": "SFT"} for cell in table(state)])


def pages(state: State, scale: Scale, folder: Path) -> dict[str, str]:
    return {"lab-checking.md": page(state, scale), "lab-checking.svg": draw(state)}


def main(folder: Folder = None, out: Out = None, quick: Quick = False) -> None:
    """Run what is left of the second part of the lab, and write its page."""
    run_part(folder, out, quick, run_policies, pages)


if __name__ == "__main__":
    typer.run(main)
