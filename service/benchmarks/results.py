"""From the lines that were written down to the table of results, and what the curves say.

A cell is one row of the table; the cells of one strategy of one model, over its sizes, are a curve. Figures are means
over questions of means over seeds. A question counts once every task has answered it with every seed, so that wherever
a job stops, all cells are of the same questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from statistics import fmean
from typing import Any

import numpy as np

from service.benchmarks import statistics
from service.benchmarks.recipe import Task, from_spec, run_tasks
from service.benchmarks.statistics import Ballots, Floats
from service.wire.strategy import build
from strategies.select import weight_of
from strategies.session import Strategy

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
    undecided: int  # answers whose comparison took too long
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
        """What k of the samples cost on average, as a share of all."""
        return min(k / self.n, 1.0) if self.n else 1.0

    def pass_at(self, k: int) -> float:
        return statistics.pass_at_k(self.n, sum(self.corrects), min(k, self.n)) if self.n else 0.0

    def best_at(self, k: int) -> float:
        """The best-scored of k: those that vote before those that do not, then whole answers before cut ones."""
        if not self.n:
            return 0.0
        return statistics.best_of_k([self.corrects[i] for i in self.rank(self.scores)], min(k, self.n))

    def majority_at(self, k: int, weighted: bool = False) -> float:
        if not self.n:
            return 0.0
        scores = self.scores if weighted else [0.0] * self.n
        rank = np.empty(self.n, dtype=np.int64)
        rank[self.rank(scores)] = np.arange(self.n)
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

    def rank(self, scores: Sequence[float]) -> list[int]:
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
        undecided=line.get("undecided", 0),  # lines of older versions do not say
        error=line["error"] is not None,
        ids=[c["id"] for c in candidates],
        groups=[c["group"] for c in candidates],
        scores=[weight_of(c["score"], c["scores"]) for c in candidates],
        corrects=[c["correct"] for c in candidates],
        cut=[c["finish_reason"] == "length" for c in candidates],
    )


def chosen(line: Line, name: str) -> Any:
    """A field of the candidate that the request returned; None where it returned none."""
    return next((c[name] for c in line["candidates"] if c["id"] == line["chosen"]), None)


Answers = dict[int, dict[int, list[Answered]]]
"""Those of every task, by question: one for every seed."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The answers of one task: a row for every question, in it one for every seed; `run` is the task that was run for
    them, which may be another one."""

    task: Task
    run: Task
    answers: Sequence[Sequence[Answered]]

    def mean(self, of: Callable[[Answered], float]) -> float:
        return fmean(of(answer) for given in self.answers for answer in given)

    def per_seed(self, of: Callable[[Answered], float]) -> float:
        """The sum over the questions, on average over the seeds."""
        return self.mean(of) * len(self.answers)

    def accuracies(self, k: int) -> Floats:
        """The expected correctness at k samples: a row for every question, a column for every seed."""
        if self.task is self.run and k == self.run.size:
            return np.array([[float(a.correct) for a in given] for given in self.answers])
        rule = accuracy_rule(build(self.task.strategy))
        return np.array([[rule(a, k) for a in given] for given in self.answers])

    def cell(self, k: int, accuracies: Floats) -> Cell:
        """One row of the table. Tokens, FLOPs and seconds are of a request; counts are of one seed's questions.

        Where k is less than what was sampled its cost is the mean cost of k samples; its seconds are not known then,
        nor where another task was run.
        """
        task, whole = self.task, k == self.run.size

        def share(answered: Answered) -> float:
            return 1.0 if whole else answered.share(k)

        tokens = {
            "policy": self.mean(lambda a: a.policy * share(a)),
            "scorer": self.mean(lambda a: a.scorer * share(a)),
            "prompt": self.mean(lambda a: a.prompt * share(a)),
        }
        known = all(a.flops is not None for given in self.answers for a in given)
        return {
            "model": task.model,
            "name": task.name,
            "strategy": task.at(k),
            "samples": None if task.budget else k,
            "budget": task.budget,
            "stops_early": task.stops_early,
            "seeds": accuracies.shape[1],
            "n_questions": len(self.answers),
            "accuracy": float(accuracies.mean()),
            "ci": list(statistics.interval(accuracies)),
            "pass_at_k": self.mean(lambda a: a.pass_at(a.n if whole else k)),
            "majority_at_k": self.mean(lambda a: a.majority_at(a.n if whole else k)),
            "tokens": tokens,
            "flops": self.mean(lambda a: (a.flops or 0.0) * share(a)) if known else None,
            "seconds": self.mean(lambda a: a.seconds) if whole and task is self.run else None,
            "unanswered": self.per_seed(lambda a: float(not a.answered) if whole else a.silent_at(k)),
            "truncated": self.per_seed(lambda a: sum(a.cut) * share(a)),
            "effective_n": self.mean(lambda a: a.votes * share(a)),
            "failed": self.per_seed(lambda a: a.failed * share(a)),
            "undecided": self.per_seed(lambda a: float(a.undecided > 0)),
            "errors": self.per_seed(lambda a: float(a.error)),
            "pareto": False,
        }


def accuracy_rule(strategy: Strategy) -> Callable[[Answered, int], float]:
    """What a sampling strategy would have made of k of its samples."""
    if strategy.selection == "best":
        return Answered.best_at
    return lambda answered, k: answered.majority_at(k, weighted=strategy.selection == "weighted_vote")


@dataclass(frozen=True, slots=True)
class Point:
    """A cell and, for comparing it, the accuracy of every question, a mean over the seeds."""

    cell: Cell
    by_question: Floats

    @property
    def tokens(self) -> float:
        """Generated for a request, by policy and scorer together."""
        return float(self.cell["tokens"]["policy"] + self.cell["tokens"]["scorer"])


Curve = Sequence[Point]
"""One strategy of one model at all its sizes."""


def figures(spec: Mapping[str, Any], lines: Iterable[Line]) -> dict[str, Any]:
    """All that can be said of a job's lines so far."""
    request, tasks = from_spec(spec)
    answers: Answers = defaultdict(lambda: defaultdict(list))
    for line in lines:
        answers[line["task"]][line["index"]].append(compact(line))
    questions = whole_questions(answers, run_tasks(tasks), len(request.seed_list))
    curves: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for number, task in enumerate(tasks if questions else ()):
        source = number if task.source is None else task.source
        measured = Measured(task, tasks[source], [answers[source][question] for question in questions])
        curves[task.model, task.name] += points(measured)
    every = [point for curve in curves.values() for point in curve]
    best = statistics.pareto([point.tokens for point in every], [point.cell["accuracy"] for point in every])
    for point, unbeaten in zip(every, best, strict=True):
        point.cell["pareto"] = unbeaten
    named = list(curves.values())
    return {
        "results": [point.cell for point in every],
        "fits": [fit for curve in named if (fit := fit_curve(curve))],
        "comparisons": [
            c for i, curve in enumerate(named) for other in named[:i] for c in compare_curves(curve, other)
        ],
    }


def whole_questions(answers: Answers, tasks: Collection[int], seeds: int) -> list[int]:
    """The questions that all these tasks have answered with every seed; others are left where the job was stopped."""
    asked = set().union(*answers.values())
    return sorted(q for q in asked if all(len(answers[task][q]) == seeds for task in tasks))


def points(measured: Measured) -> Iterator[Point]:
    for k in measured.task.sizes:
        accuracies = measured.accuracies(k)
        yield Point(measured.cell(k, accuracies), accuracies.mean(axis=1))


def values(curve: Curve) -> Floats:
    """A row for every question, a column for every point."""
    return np.column_stack([point.by_question for point in curve])


def place(cell: Cell) -> dict[str, Any]:
    return {name: cell[name] for name in ("model", "name", "samples", "budget", "stops_early")}


def fit_curve(curve: Curve) -> dict[str, Any] | None:
    fit = statistics.log_linear([p.tokens for p in curve], values(curve))
    return {"model": curve[0].cell["model"], "name": curve[0].cell["name"], **asdict(fit)} if fit else None


def compare_curves(curve: Curve, baseline: Curve) -> Iterator[dict[str, Any]]:
    """Every point of a curve with what a baseline, between two of its own points, gets for the same tokens."""
    for point in curve:
        same = statistics.at_tokens([p.tokens for p in baseline], values(baseline), point.tokens)
        if same is None:
            continue
        mean, ci = statistics.difference(point.by_question, same)
        against = {"model": baseline[0].cell["model"], "name": baseline[0].cell["name"]}
        yield {**place(point.cell), "against": against, "tokens": point.tokens, "difference": mean, "ci": ci}
