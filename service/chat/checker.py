"""What scorers compute: in the pool of processes that can be killed, or in the sandbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.answers.equations import check_solutions
from service.answers.pool import PoolShare
from strategies.types import Check

log = logging.getLogger(__name__)

SOLUTIONS = 16  # of a job
TOO_SLOW = Check(None, "checking took too long")


@dataclass(frozen=True, slots=True)
class ScoreChecker:
    """Implements `Checker` for one request."""

    workers: PoolShare

    async def equations(self, solutions: Sequence[Sequence[str]]) -> list[list[Check]]:
        parts = [solutions[i : i + SOLUTIONS] for i in range(0, len(solutions), SOLUTIONS)]
        return [checks for part in await asyncio.gather(*map(self.check_part, parts)) for checks in part]

    async def check_part(self, solutions: Sequence[Sequence[str]]) -> list[list[Check]]:
        """Some solutions in one job; where that takes too long, each in its own."""
        try:
            found = await self.workers.run(check_solutions, solutions)
        except (TimeoutError, MemoryError):
            if len(solutions) > 1:
                return [checks for solution in solutions for checks in await self.check_part([solution])]
            log.warning("checking a solution took longer than %g s", self.workers.limit)
            return [[TOO_SLOW] * len(solution) for solution in solutions]
        return [[Check(SCORE[step.holds], step.reason) for step in steps] for steps in found]


SCORE: Mapping[bool | None, float | None] = {True: 1.0, False: 0.0, None: None}
