"""What scorers compute: in the pool of processes that can be killed, or in the sandbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.answers.equations import check_solutions
from service.answers.pool import PoolShare
from service.graders import Answer, Grade, Item, Sample, build, check
from service.graders.asking import Messages
from service.graders.grading import Fault
from service.sandbox import Sandbox, StdinCase, last_code_block
from strategies.errors import ScorerError
from strategies.types import Candidate, Check

log = logging.getLogger(__name__)

SOLUTIONS = 16  # of a job
TOO_SLOW = Check(None, "checking took too long")


@dataclass(frozen=True, slots=True)
class ScoreChecker:
    """Implements `Checker` for one request."""

    workers: PoolShare
    sandbox: Sandbox

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

    async def tests(self, answers: Sequence[str], tests: Sequence[str | Mapping[str, str]]) -> list[Check]:
        cases = [test if isinstance(test, str) else StdinCase(**test) for test in tests]
        return list(await asyncio.gather(*(self.run_tests(answer, cases) for answer in answers)))

    async def run_tests(self, answer: str, cases: Sequence[str | StdinCase]) -> Check:
        code = last_code_block(answer)
        if code is None:
            return Check(0.0, "there is no block of code")
        result = await self.sandbox.run_tests(code, cases)
        if result.unsupported is not None:
            return Check(None, result.unsupported)
        return Check(result.passed / len(cases), result.first_failure)

    async def grade(self, candidates: Sequence[Candidate], grader: Mapping[str, Any], item: Item) -> list[Check]:
        built = build(check(grader), self.workers, ask_nobody, self.sandbox)
        samples = list(map(Sample.of, candidates))
        grades = await asyncio.gather(*(built.explain(item, sample) for sample in samples))
        return [Check(None if grade.faults - WRONG else grade.score, said(grade)) for grade in grades]


SCORE: Mapping[bool | None, float | None] = {True: 1.0, False: 0.0, None: None}
WRONG: frozenset[Fault] = frozenset({"sample_parse_error"})
"""What is the answer's fault; any other is the grader's, which then has no opinion."""


def said(grade: Grade) -> str | None:
    """Why a grade is what it is, as far as that is known."""
    return ", ".join(sorted(grade.faults)) or None


async def ask_nobody(model: str, messages: Messages, fields: Mapping[str, Any]) -> Answer:
    raise ScorerError(f"a grader of a scorer asks no model, as {model}")
