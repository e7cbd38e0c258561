"""Checking solutions, step by step, within limits."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.answers.equations.definitions import Definitions
from service.answers.equations.judging import NOTHING, Step, StepCheck
from service.answers.equations.spelling import simplify
from service.answers.equations.tokenizing import tokenize

log = logging.getLogger(__name__)

STEP_CHARACTERS, SOLUTION_CHARACTERS = 20_000, 200_000
STEP_EQUATIONS, SOLUTION_EQUATIONS = 200, 2_000

RELEVANT = re.compile(r"[=＝~≈]|\\approx|\bequals\b")
ANNOTATION = re.compile(r"<<([^<>\n]*)>>")  # of GSM8K's calculator: 3 + 4 = <<3+4=7>>7


def check_solutions(solutions: Sequence[Sequence[str]]) -> list[list[StepCheck]]:
    """In a worker: `check_solution` of each; one that nobody foresaw costs the others nothing."""
    return [check_or_not(steps) for steps in solutions]


def check_or_not(steps: Sequence[str]) -> list[StepCheck]:
    try:
        return check_solution(steps)
    except Exception:
        log.exception("a solution could not be checked")
        return [StepCheck(None, "it could not be checked")] * len(steps)


def check_solution(steps: Sequence[str]) -> list[StepCheck]:
    """Check the steps of one solution, in their order: a definition is known in what follows it."""
    solution = Solution(Definitions([text for text in steps if len(text) <= STEP_CHARACTERS]))
    return [solution.check_step(text) for text in steps]


@dataclass(slots=True)
class Solution:
    """What was read of a solution so far."""

    definitions: Definitions
    characters: int = 0
    equations: int = 0

    def check_step(self, text: str) -> StepCheck:
        if not RELEVANT.search(text):
            return StepCheck(None, NOTHING)
        self.characters += len(text)
        if len(text) > STEP_CHARACTERS or self.characters > SOLUTION_CHARACTERS:
            return StepCheck(None, "the text is too long")
        text = "\n".join([ANNOTATION.sub("", text), *ANNOTATION.findall(text)])
        tokens = tokenize(simplify(text))
        signs = [i for i, kind in enumerate(tokens.kinds) if kind == "="]
        self.equations += len(signs)
        if len(signs) > STEP_EQUATIONS or self.equations > SOLUTION_EQUATIONS:
            return StepCheck(None, "there are too many equations")
        return Step(text, tokens, self.definitions).check(signs)
