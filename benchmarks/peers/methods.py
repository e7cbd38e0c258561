"""What is compared: for each peer its package and environment, and for each of its methods the knobs it has.

All have the same model, `max_tokens`, temperature, number of samples (beams, particles) and questions at a time. What a
peer has beyond that stays at its default, and so does what Outthink has, unless `knobs` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """`package` is pinned in requirements/`environment`.txt, and the environment is `.venv-` and its name; without one
    the project's own is used."""

    title: str
    runner: str
    environment: str = ""
    package: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """One row. `knobs` says in words what it has beyond the knobs of all; `body` is what an endpoint is asked with."""

    peer: str
    name: str
    knobs: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        return f"{self.peer}/{self.name}"


PEERS = {
    "vllm": Peer("vLLM", "direct"),
    "optillm": Peer("optillm 0.4.0", "optillm", "optillm", "optillm==0.4.0"),
    "its-hub": Peer("its-hub 1.2.0", "itshub", "itshub", "its-hub==1.2.0"),
    "thinkbooster": Peer("thinkbooster 0.1.1", "thinkbooster", "thinkbooster", "thinkbooster==0.1.1"),
    "outthink": Peer("Outthink", "direct"),
}

OPTILLM = "its proxy sends `User: ` before the question and an empty system message"
BOXED = "votes read by the pattern of its documentation for `\\boxed`"
OUR_SCORER = "our `equations` as its reward model"
ITS_STEPS = f"{OUR_SCORER}; at most 8 steps, which end at a blank line, the last at `\\boxed`"
THINKING = "top_p 0.8 and top_k 20 are fixed in its code"
NO_SCORES = f"{THINKING}; its scorer `entropy`, which has no log-probabilities from an unknown model"


def methods(samples: int, step_tokens: int) -> tuple[Method, ...]:
    """All rows, in their order."""
    return (
        Method("vllm", "one_sample", "one sample, straight from vLLM"),
        *peer_methods(samples),
        *our_methods(samples, step_tokens),
    )


def peer_methods(samples: int) -> tuple[Method, ...]:
    budget, graded = f"budget {samples}", "temperature fixed at 1"
    return (
        Method("optillm", "majority_voting", f"k {samples}; {OPTILLM}"),
        Method("optillm", "bon", f"--best-of-n {samples}, the model grades each answer; {graded}; {OPTILLM}"),
        Method("optillm", "mcts", f"its defaults: 2 simulations, depth 1; {graded}; {OPTILLM}"),
        Method("optillm", "deepconf", "`decoding: deepconf`"),
        Method("its-hub", "self_consistency", f"{budget}; {BOXED}"),
        Method("its-hub", "adaptive", f"{budget}, threshold 0.75 (default); {BOXED}"),
        Method("its-hub", "beta", f"{budget}, confidence 0.95 (default); {BOXED}"),
        Method("its-hub", "best_of_n", f"{budget}; {OUR_SCORER}"),
        Method("its-hub", "beam_search", f"{budget}, beam_width {samples // 4}; {ITS_STEPS}"),
        Method("its-hub", "particle_filter", f"{budget}; {ITS_STEPS}"),
        Method("thinkbooster", "self_consistency", f"num_paths {samples}; {THINKING}"),
        Method("thinkbooster", "offline_bon", f"{samples} trajectories; {NO_SCORES}"),
        Method("thinkbooster", "beam_search", f"{samples // 4} beams of 4 candidates, at most 8 steps; {NO_SCORES}"),
    )


def our_methods(samples: int, step_tokens: int) -> tuple[Method, ...]:
    """Outthink's own, whose whole strategy is in the body of the request."""
    searching = {"scorer": "equations", "step": {"max_tokens": step_tokens}}
    sampling = {"type": "self_consistency", "samples": samples}
    best = {"type": "best_of_n", "samples": samples, "scorer": "equations"}
    verified = {**best, "stop": {"rule": "verified"}, "waves": {"start": 1, "growth": 1.0}}
    return tuple(
        Method("outthink", name, knobs, {"strategy": strategy})
        for name, knobs, strategy in (
            ("self_consistency", f"samples {samples}", sampling),
            ("adaptive", f"at most {samples} samples, default waves", {**sampling, "stop": {"rule": "adaptive"}}),
            ("best_of_n", f"samples {samples}, `equations`", best),
            ("until_verified", f"at most {samples} samples, one by one, `equations`", verified),
            ("beam_search", f"beams {samples}, `equations`", {"type": "beam_search", "beams": samples, **searching}),
            (
                "particle_filter",
                f"particles {samples}, `equations`",
                {"type": "particle_filter", "particles": samples, **searching},
            ),
            ("mcts", f"iterations {samples}, `equations`", {"type": "mcts", "iterations": samples, **searching}),
        )
    )
