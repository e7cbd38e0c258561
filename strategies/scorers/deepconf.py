"""DeepConf's confidence of a sample (Fu et al., 2025, "Deep Think with Confidence", arXiv:2508.15260).

The confidence of a token is C_i = -(1/k) sum_{j<=k} log P_i(j), over the k most likely tokens, in nats: the more the
distribution is peaked, the less likely are the others, and the higher it is. A group is a window of consecutive tokens
and its confidence their mean; `measure` makes one number C of a sample. The score is C / 100, so that a vote weighted
by it is the paper's, V(a) = sum of C, but for a factor.

Deviations: log-probabilities are floored at -100, which bounds C; k is less where the engine lists fewer; the window is
an eighth of the sample, at most the paper's 2048 tokens, unless `group` says otherwise: in a sample shorter than the
window, as most are that do not think for long, every measure is the mean.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from statistics import fmean
from typing import Any, ClassVar, Literal

from strategies.knobs import knob
from strategies.scorers.confidence import FLOOR, TOP
from strategies.types import Candidate, NamedScorer, ScorerContext, Scores

MOST = -FLOOR
"""The highest confidence that there is, in nats: a token beside which nothing else is possible."""
WINDOW = 2048
SHARE = 8  # of a sample, where `group` says nothing
UNREAD = "the engine returned no log-probabilities"

Measure = Literal["mean", "tail", "bottom_10", "lowest_group"]


@dataclass(frozen=True, slots=True)
class DeepConf(NamedScorer):
    """Reads how sure the model was where it was least sure."""

    type: ClassVar[str] = "deepconf"
    summary: ClassVar[str] = "How sure the model was of its tokens, in the least sure part of the sample."
    cost: ClassVar[str] = "none but log-probabilities"

    measure: Measure = knob(
        "lowest_group", "Of all tokens, the last ones, the least sure tenth of the groups, or the least sure group."
    )
    group: int | None = knob(
        None, f"Tokens of a group and of the tail; unset: 1/{SHARE} of the sample, at most {WINDOW}.", ge=1, le=65536
    )
    top_k: int = knob(TOP, "Log-probabilities that are read at every token.", ge=1, le=TOP)

    @property
    def logprobs(self) -> int:
        return self.top_k

    def tokens(self, judgements: int) -> int:
        return 0

    def confidence(self, token: Mapping[str, Any]) -> float | None:
        """C_i of one token, from 0 to 100 nats."""
        row = [max(top["logprob"], FLOOR) for top in token["top_logprobs"][: self.top_k]]
        return max(-fmean(row), 0.0) if row else None

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[Scores]:
        scores: list[Scores] = []
        for candidate in candidates:
            if (value := self.of(candidate)) is None:
                session.explain(candidate, [UNREAD])
            scores.append((None if value is None else min(value / MOST, 1.0),))
            await asyncio.sleep(0)  # samples may be long, and others wait for their turn
        return scores

    def of(self, candidate: Candidate) -> float | None:
        """The confidence C of a sample, in nats; None where nothing was read."""
        confidences = array("f")
        for step in candidate.steps:
            confidences.extend(step.confidences)
        if not confidences:
            return None
        window = min(self.window(len(confidences)), len(confidences))
        match self.measure:
            case "mean":
                return fmean(confidences)
            case "tail":
                return fmean(confidences[-window:])
            case "bottom_10":
                count = max((len(confidences) - window + 1) // 10, 1)
                return fmean(sorted(groups(confidences, window))[:count])
            case "lowest_group":
                return min(groups(confidences, window))

    def window(self, length: int) -> int:
        """Tokens of a group of a sample of so many."""
        return self.group or min(max(length // SHARE, 1), WINDOW)


def groups(confidences: Sequence[float], window: int) -> Iterator[float]:
    """The means of all windows, each a token behind the one before it."""
    ends = islice(accumulate(confidences), window - 1, None)
    return ((end - start) / window for end, start in zip(ends, accumulate(confidences, initial=0.0), strict=False))


class Watch:
    """Tells of a sample in the making whether one of its groups has fallen below a threshold, in nats.

    It is asked with the confidences of all tokens so far and reads each once; its sums are those of `groups`, so that
    it and the measure `lowest_group` agree.
    """

    def __init__(self, window: int, threshold: float) -> None:
        self.window = window
        self.threshold = threshold
        self.read = 0
        self.entered = self.left = 0.0

    def __call__(self, confidences: Sequence[float]) -> bool:
        for at in range(self.read, len(confidences)):
            self.entered += confidences[at]
            if at >= self.window:
                self.left += confidences[at - self.window]
            if at + 1 >= self.window and (self.entered - self.left) / self.window < self.threshold:
                return True
        self.read = len(confidences)
        return False
