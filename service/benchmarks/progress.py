"""How far a benchmark is, and how long the rest of it takes.

Work is counted in tokens: a request of 16 samples is not one of one sample. What runs counts as its tokens come, so
that the long requests, which are the last to end, are not forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.benchmarks import results
from service.benchmarks.lines import Key, Line
from service.benchmarks.recipe import Task
from strategies.session import Session


@dataclass(slots=True)
class TaskProgress:
    """How far one task is."""

    task: Task
    total: int
    done: int = 0
    correct: int = 0
    tokens: int = 0

    def add(self, line: Line) -> None:
        self.done += 1
        self.correct += results.chosen(line, "correct") or False
        self.tokens += sum(part["completion"] for part in line["usage"].values())

    def as_dict(self) -> dict[str, Any]:
        task = self.task
        rates = {"accuracy": self.correct / self.done, "tokens": self.tokens / self.done} if self.done else {}
        size = {"samples": None if task.budget else task.size, "budget": task.budget, "stops_early": task.stops_early}
        return {"model": task.model, "name": task.name, **size, "done": self.done, "total": self.total, **rates}


def expected_tokens(tallies: Sequence[TaskProgress]) -> list[float]:
    """The tokens of one request of every task: the mean of those that are done; of a task that has none, what it may
    generate at most times the share of it that the others have used."""
    most = sum(tally.done * tally.task.tokens for tally in tallies)
    share = sum(tally.tokens for tally in tallies) / most if most else 1.0
    return [tally.tokens / tally.done if tally.done else share * tally.task.tokens for tally in tallies]


@dataclass(slots=True)
class Pace:
    """The speed since the job was begun, or begun again, and what is left at that speed.

    `spent` are the seconds, and `before` the tokens, of what was done before that.
    """

    tallies: Sequence[TaskProgress]
    spent: float = 0.0
    before: int = 0
    slowest: float = 0.0  # seconds of a request
    started: float = field(default_factory=time.monotonic)
    running: dict[Key, Session] = field(default_factory=dict)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def seconds(self) -> float:
        """How long the job has run, over all its starts."""
        return self.spent + self.elapsed

    @property
    def in_flight(self) -> int:
        return sum(session.generated for session in self.running.values())

    @property
    def speed(self) -> float:
        """Tokens a second."""
        generated = sum(tally.tokens for tally in self.tallies) - self.before + self.in_flight
        return generated / self.elapsed if self.elapsed > 0 else 0.0

    def seconds_for(self, requests: int) -> float | None:
        """How long it takes until every task has done so many requests; None where no speed is known yet."""
        each = expected_tokens(self.tallies)
        left = [max(requests - tally.done, 0) * cost for tally, cost in zip(self.tallies, each, strict=True)]
        work = max(sum(left) - self.in_flight, 0.0)
        return work / self.speed if self.speed > 0 else None

    def fits(self, requests: int, seconds: float) -> bool:
        """Whether every task would have done so many requests within these seconds.

        No list of requests takes longer than all its work at full speed and behind it the slowest one (Graham, 1966).
        """
        return seconds > 0 and (self.seconds_for(requests) or 0.0) + self.slowest <= seconds

    def add(self, key: Key, line: Line) -> None:
        """Count what is done."""
        self.running.pop(key, None)
        self.tallies[key[0]].add(line)
        self.slowest = max(self.slowest, line["seconds"])
