"""What a session has spent and may still spend. The budget lives here and in no strategy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from strategies.branch import Branch
from strategies.errors import BudgetSpent
from strategies.types import Batch, Role, Usage, Vote

SHOWN = 8
"""Leading answers whose votes are told."""
StoppedBy = Literal["complete", "converged", "tokens", "seconds"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens to generate, by policy and scorer together, and seconds from the start of the session; None: no bound."""

    tokens: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Progress:
    """What is going on, for people who wait. Of a vote that may stop early there are the votes of the leading answers,
    most first, and the probability that the first of them stays the first."""

    rounds: int = 0
    live: int = 0
    finished: int = 0
    tokens: int = 0
    votes: tuple[int, ...] | None = None
    confidence: float | None = None

    def tell(self, votes: Sequence[Vote]) -> None:
        self.votes = tuple(sorted((vote.count for vote in votes), reverse=True)[:SHOWN])


@dataclass(slots=True, eq=False, kw_only=True)
class Ledger:
    """Every token, counted as it streams in, and what is left of the budget.

    `failed` counts the policy's branches lost to faults of the engine and `failures` says why; `cancelled` counts
    the tokens of branches that were aborted; `notes` are remarks for the caller, as on answers shortened for a
    judge. When a rule stops sampling, `saved` counts the samples that were never asked for and `unused` those that
    came too late to vote. Of a search that it ends, `saved` is 0, since nobody knows how many paths were to come,
    and `unused` counts the paths of its last round that came too late.
    """

    budget: Budget = field(default_factory=Budget)
    usage: dict[Role, Usage] = field(default_factory=lambda: {"policy": Usage(), "scorer": Usage()})
    prompt_tokens: int = 0  # of the caller's prompt, once
    cancelled: int = 0
    failed: int = 0
    saved: int = 0
    unused: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: StoppedBy | None = None
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)
    overshoot: int = 0  # tokens that came in the very events that ended a round: not taken from what was reserved

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def generated(self) -> int:
        return self.usage["policy"].completion + self.usage["scorer"].completion

    @property
    def seconds_left(self) -> float | None:
        return None if self.budget.seconds is None else self.budget.seconds - self.seconds

    def tokens_left(self, reserve: int = 0) -> int | None:
        return None if self.budget.tokens is None else self.budget.tokens + self.overshoot - reserve - self.generated

    def left_to_begin(self, reserve: int) -> int | None:
        """What a call finds: the first one may begin, whatever it has to leave."""
        return self.tokens_left(reserve if self.generated else 0)

    def check(self, reserve: int = 0) -> None:
        """Raise BudgetSpent when no further call may begin: the budget has ended, or a rule has ended the search."""
        if self.stopped == "converged":
            raise BudgetSpent("the search has ended")
        left = self.left_to_begin(reserve)
        if left is not None and left <= 0:
            self.stopped = "tokens"
            raise BudgetSpent(f"the budget of {self.budget.tokens} tokens is spent")
        if self.seconds_left is not None and self.seconds_left <= 0:
            self.stopped = "seconds"
            raise BudgetSpent(f"the budget of {self.budget.seconds} seconds is spent")

    def count(self, batch: Batch, branches: list[Branch], role: Role) -> int:
        """Add a batch to its branches and to the usage; return how many tokens it brought."""
        gained = sum(branches[delta.index].take(delta) for delta in batch.deltas)
        finished = sum(delta.finish_reason is not None for delta in batch.deltas)
        self.usage[role] += Usage(prompt=batch.prompt or 0, cached=batch.cached or 0, completion=gained)
        self.progress.live -= finished
        if role == "policy":
            self.progress.tokens += gained
            self.progress.finished += finished
            if batch.prompt and not self.prompt_tokens:
                self.prompt_tokens = batch.prompt // len(branches)
        return gained

    @contextmanager
    def live(self, branches: list[Branch]) -> Iterator[None]:
        """Keep the number of live branches right, also when the caller goes away; what is unfinished was cancelled."""
        self.progress.live += len(branches)
        try:
            yield
        finally:
            unfinished = [branch for branch in branches if branch.finish_reason is None]
            self.progress.live -= len(unfinished)
            self.cancelled += sum(branch.tokens for branch in unfinished)

    def lose(self, branches: Sequence[Branch], error: BaseException, role: Role = "policy") -> None:
        """Mark the branches that had not finished when the engine failed; those of a scorer are no samples."""
        for branch in branches:
            branch.failed = branch.finish_reason is None
        self.report(error, sum(branch.failed for branch in branches) if role == "policy" else 0)

    def report(self, error: BaseException, branches: int = 0) -> None:
        """Keep what went wrong, and how many branches it cost, for the caller."""
        self.failed += branches
        self.failures.append(str(error))

    def note(self, remark: str) -> None:
        """Keep a remark for the caller, once."""
        if remark not in self.notes:
            self.notes.append(remark)
