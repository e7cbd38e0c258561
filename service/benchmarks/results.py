"""From the lines that were written down to the table of results, and what the curves say.

A `Curve` is one strategy of one model over its sizes; a cell is one point of it. Figures are means over questions of
means over seeds; a question counts once all seeds of it are there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from statistics import fmean
from typing import Any

import numpy as np

from service.benchmarks import statistics
from service.benchmarks.statistics import Ballots, Floats

Line = Mapping[str, Any]
Cell = dict[str, Any]


@dataclass(slots=True)
class Answered:
    """What the figures need of one line; the texts are left behind."""

    correct: bool
    answered: bool
    seconds: float
    flops: float | None
    policy: int
    scorer: int
    prompt: int
    failed: int
    error: bool
    ids: list[int]
    groups: list[int | None]
    scores: list[float]
    corrects: list[bool]
    cut: list[bool]

    @property
    def n(self) -> int:
        return len(self.ids)

    @property
    def votes(self) -> int:
        return sum(group is not None for group in self.groups)

    def share(self, k: int) -> float:
        """What k of the samples cost, on average, as a share of all."""
        return min(k / self.n, 1.0) if self.n else 1.0

    def pass_at(self, k: int) -> float:
        return statistics.pass_at_k(self.n, sum(self.corrects), min(k, self.n)) if self.n else 0.0

    def best_at(self, k: int) -> float:
        """The best-scored of k: those that vote before those that do not, then whole answers before cut ones."""
        if not self.n:
            return 0.0
        return statistics.best_of_k([self.corrects[i] for i in self.ranked(self.scores)], min(k, self.n))

    def majority_at(self, k: int, weighted: bool = False) -> float:
        if not self.n:
            return 0.0
        scores = self.scores if weighted else [0.0] * self.n
        rank = np.empty(self.n, dtype=np.int64)
        rank[self.ranked(scores)] = np.arange(self.n)
        ballots = Ballots(
            np.array([-1 if group is None else group for group in self.groups], dtype=np.int64),
            np.array(scores if weighted else [1.0] * self.n),
            rank,
            np.array(self.corrects, dtype=float),
        )
        return ballots.at(min(k, self.n), seed=0)

    def silent_at(self, k: int) -> float:
        """The chance that none of k samples votes."""
        if not self.n:
            return 1.0
        k = min(k, self.n)
        return comb(self.n - self.votes, k) / comb(self.n, k)

    def ranked(self, scores: Sequence[float]) -> list[int]:
        """The order in which the strategies rank candidates (`strategies/select.py`)."""
        return sorted(range(self.n), key=lambda i: (self.groups[i] is None, self.cut[i], -scores[i], self.ids[i]))


def compact(line: Line) -> Answered:
    candidates = sorted(line["candidates"], key=lambda c: c["id"])
    usage = line["usage"]
    return Answered(
        correct=bool(chosen(line, "correct")),
        answered=chosen(line, "group") is not None,
        seconds=line["seconds"],
        flops=line["flops"],
        policy=usage["policy"]["completion"],
        scorer=usage["scorer"]["completion"],
        prompt=usage["policy"]["prompt"] + usage["scorer"]["prompt"],
        failed=line["failed"],
        error=line["error"] is not None,
        ids=[c["id"] for c in candidates],
        groups=[c["group"] for c in candidates],
        scores=[c["score"] or 0.0 for c in candidates],
        corrects=[c["correct"] for c in candidates],
        cut=[c["finish_reason"] == "length" for c in candidates],
    )


def chosen(line: Line, name: str) -> Any:
    """A field of the candidate that the request returned; None where it returned none."""
    return next((c[name] for c in line["candidates"] if c["id"] == line["chosen"]), None)


@dataclass(slots=True)
class Points:
    """The answers of one task, by question and seed."""

    head: Line
    sizes: Sequence[int]
    seeds: int
    answers: dict[int, list[Answered]] = field(default_factory=lambda: defaultdict(list))

    @property
    def questions(self) -> list[int]:
        """Those that are whole."""
        return sorted(question for question, given in self.answers.items() if len(given) == self.seeds)

    def matrix(self, of: Any) -> Floats:
        """A row for every question, a column for every seed."""
        return np.array([[of(answer) for answer in self.answers[q]] for q in self.questions], dtype=float)
