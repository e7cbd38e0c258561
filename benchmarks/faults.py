"""What a verifier's marks are worth on generated arithmetic, where every step can be checked.

Read from the samples of a benchmark that scored every step (`samples.jsonl`). Equal solutions of a question count once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from strategies.steps import Step

Fault = Literal["result", "sign", "number", "form"]
"""What is wrong with a step first: 9 + 4 = 12; a minus for `add`; not the question's number, or not the result of the
step before; no equation where there should be one, or another one too many."""

START = re.compile(r"Start with (\d+)")
OPERATION = re.compile(r"then (add|subtract) (\d+)")
EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (-?\d+)")
SIGNS = {"add": "+", "subtract": "-"}


@dataclass(frozen=True, slots=True)
class Marks:
    """By fault, for every first wrong step of a solution, how its mark compares with the right equation's that is that
    question's step of the same number: 1 below, 0 above, 0.5 equal. So difficult steps do not count as recognized.
    """

    told: Mapping[Fault, Sequence[float]]

    @classmethod
    def of(cls, samples: Path) -> Marks:
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        most = max(row["samples"] for row in rows)
        told: dict[Fault, list[float]] = {fault: [] for fault in get_args(Fault)}
        for row in (row for row in rows if row["samples"] == most):
            answers = {answer["text"]: answer for answer in row["candidates"]}.values()
            marks = [list(step_outcomes(row["question"], answer)) for answer in answers]
            right = {i: mark for steps in marks for i, (fault, mark) in enumerate(steps) if fault is None}
            for steps in marks:
                for i, (fault, mark) in enumerate(steps):
                    if fault and i in right:
                        told[fault].append((right[i] > mark) + (right[i] == mark) / 2)
        return cls(told)

    def area(self, fault: Fault) -> float | None:
        """How often a right equation has the higher mark, the area under the ROC curve; None when nothing is wrong."""
        told = self.told[fault]
        return sum(told) / len(told) if told else None


def step_outcomes(question: str, answer: Mapping[str, Any]) -> Iterator[tuple[Fault | None, float]]:
    """The faults of the equations of an answer with their marks, up to the first fault."""
    steps = [step.strip() for step in answer["text"].split(Step().delimiter) if step.strip()]
    if answer["scores"] and len(answer["scores"]) == len(steps):
        yield from zip(faults(question, steps), answer["scores"], strict=False)


def faults(question: str, steps: Sequence[str]) -> Iterator[Fault | None]:
    """What is wrong with every equation of a solution, up to the first that is wrong; None: nothing."""
    start = START.match(question)
    assert start, f"not a question of generated arithmetic: {question}"
    value, wanted = int(start[1]), OPERATION.findall(question)
    for i, step in enumerate(steps):
        equation = EQUATION.fullmatch(step)
        if equation is None and i == len(wanted):
            return  # the answer, which is as good as the equations
        fault = wrong(equation, value, *wanted[i]) if equation is not None and i < len(wanted) else "form"
        yield fault
        if fault or equation is None:
            return
        value = int(equation[4])


def wrong(equation: re.Match[str], value: int, operation: str, number: str) -> Fault | None:
    first, sign, second, result = equation.groups()
    if (int(first), second) != (value, number):
        return "number"
    if sign != SIGNS[operation]:
        return "sign"
    return None if int(result) == value + int(f"{sign}{number}") else "result"
