"""What is compared on the SFT model: a new policy is one entry of `POLICIES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.lab.jobs import Lab, Request, Stage
from benchmarks.lab.scale import Scale
from service.benchmarks.results import Answered

TEMPERATURE = 1.0
SAMPLING_AT_ONCE, AT_ONCE = 8, 24
"""Requests in flight: a request for many samples fills a batch of vLLM's by itself, one for a sample or a step does
not."""

VERIFIER = "the verifier"
"""Stands for the verifier's name, which is known when it is trained."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`sizes` and `questions` are fields of a `Scale`. `against`: what it is compared with at equal tokens."""

    strategy: Mapping[str, Any]
    sizes: str
    questions: str = "tests"
    against: str | None = None
    temperature: float = TEMPERATURE

    @property
    def at_once(self) -> int:
        drawn_at_once = self.strategy["type"] == "best_of_n" and "stop" not in self.strategy
        return SAMPLING_AT_ONCE if drawn_at_once else AT_ONCE


@dataclass(frozen=True, slots=True)
class Reading:
    """What the samples of a policy tell of another one that would choose among them in its own way."""

    of: str
    rule: Callable[[Answered, int], float]


MAJORITY, BEST, BEST_BY_VERIFIER = "majority of N", "best of N by equations", "best of N by the verifier"
WEIGHTED, VERIFIED, ADAPTIVE = "vote weighted by the verifier", "until the equations hold", "majority, adaptive"
ONE_BY_ONE = {"start": 1, "growth": 1.0}
STEPS = {"step": {"max_tokens": 48}}
BY_EQUATIONS = {**STEPS, "scorer": "equations"}
BY_VERIFIER = {**STEPS, "scorer": VERIFIER, "select": "weighted_vote"}
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "beam search": {"type": "beam_search"},
    "DVTS": {"type": "beam_search", "trees": 2},
    "particle filter": {"type": "particle_filter"},
    "MCTS": {"type": "mcts"},
}
POLICIES: Mapping[str, Policy] = {
    "greedy": Policy({"type": "self_consistency"}, "once", temperature=0.0),
    BEST: Policy({"type": "best_of_n", "scorer": "equations"}, "sampled"),
    ADAPTIVE: Policy(
        {"type": "self_consistency", "stop": {"rule": "adaptive"}, "waves": ONE_BY_ONE}, "stopped", against=MAJORITY
    ),
    "majority, windows of 3 (ESC)": Policy(
        {"type": "self_consistency", "stop": {"rule": "window", "size": 3}, "waves": {"start": 3, "growth": 1.0}},
        "stopped",
        against=MAJORITY,
    ),
    VERIFIED: Policy(
        {"type": "best_of_n", "scorer": "equations", "stop": {"rule": "verified"}, "waves": ONE_BY_ONE},
        "stopped",
        against=BEST,
    ),
    WEIGHTED: Policy({"type": "best_of_n", "scorer": VERIFIER, "select": "weighted_vote"}, "judged", against=MAJORITY),
    "best of N by equations, then the verifier": Policy(
        {"type": "best_of_n", "scorer": {"type": "all", "of": ["equations", VERIFIER]}}, "combined", against=BEST
    ),
    **{
        f"{name} by equations": Policy({**search, **BY_EQUATIONS}, "searches", "searched", against=BEST)
        for name, search in SEARCHES.items()
    },
    **{
        f"{name} by the verifier": Policy({**search, **BY_VERIFIER}, "searches", "guided", against=WEIGHTED)
        for name, search in SEARCHES.items()
    },
}
READINGS: Mapping[str, Reading] = {
    MAJORITY: Reading(BEST, Answered.majority_at),
    BEST_BY_VERIFIER: Reading(WEIGHTED, Answered.best_at),
}


def stage(name: str, policy: Policy, scale: Scale, minutes: float) -> Stage:
    """The comparison of one policy at its sizes."""
    questions, sizes = getattr(scale, policy.questions), getattr(scale, policy.sizes)

    def create(lab: Lab) -> Request:
        strategy = {**filled(policy.strategy, lab), "name": name, "samples": [*sizes]}
        return benchmark(lab, name, lab.model("sft, merged"), strategy, questions, policy.at_once, policy.temperature)

    return Stage(name, f"{questions} questions, sizes {', '.join(map(str, sizes))}", minutes, create)


def filled(strategy: Any, lab: Lab) -> Any:
    """A strategy with the verifier's name in its place."""
    match strategy:
        case dict():
            return {key: filled(value, lab) for key, value in strategy.items()}
        case list():
            return [filled(value, lab) for value in strategy]
    return lab.model("verifier") if strategy == VERIFIER else strategy


def benchmark(
    lab: Lab,
    name: str,
    model: str,
    strategy: Mapping[str, Any],
    questions: int,
    at_once: int = SAMPLING_AT_ONCE,
    temperature: float = TEMPERATURE,
) -> Request:
    """A strategy on so many of the test questions."""
    body = {
        "name": name,
        "model": model,
        "dataset": {"name": "arithmetic", "questions": questions, **lab.scale.difficulty, "split": "test"},
        "strategies": [strategy],
        "seeds": [1],
        "concurrency": at_once,
        "sampling": {"max_tokens": lab.scale.max_tokens, "temperature": temperature},
    }
    return Request("/benchmarks", body)
