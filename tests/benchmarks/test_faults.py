"""What is wrong with solutions of generated arithmetic, and what marks on them are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import Marks, faults
from service.benchmarks.arithmetic import generate

QUESTION = "Start with 8, then subtract 3, then add 9. What is the result?"


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("8 - 3 = 5|5 + 9 = 14|\\boxed{14}", [None, None]),
        ("8 - 3 = 5|5 + 9 = 13|\\boxed{13}", [None, "result"]),
        ("8 + 3 = 11|11 + 9 = 20|\\boxed{20}", ["sign"]),
        ("8 - 4 = 4|4 + 9 = 13", ["number"]),
        ("8 - 3 = 5|6 + 9 = 15", [None, "number"]),
        ("8 - 3 = 5|\\boxed{5}", [None, "form"]),
        ("8 - 3 = 5|5 + 9 = 14|14 + 1 = 15|\\boxed{15}", [None, None, "form"]),
        ("8 minus 3 is 5", ["form"]),
    ],
)
def test_the_first_fault_is_named_and_ends_the_list(solution: str, expected: list[str | None]) -> None:
    assert list(faults(QUESTION, solution.split("|"))) == expected


def test_generated_solutions_have_no_fault() -> None:
    for problem in generate(50, steps=4, digits=2):
        assert list(faults(problem.question, problem.solution.split("\n\n"))) == [None] * 4


def test_marks_are_worth_what_they_tell_apart(tmp_path: Path) -> None:
    def answer(text: str, correct: bool, *scores: float) -> dict[str, Any]:
        return {"text": text.replace("|", "\n\n"), "correct": correct, "scores": scores, "score": min(scores)}

    right = answer("8 - 3 = 5|5 + 9 = 14|\\boxed{14}", True, 0.9, 0.5, 0.9)
    summed = answer("8 - 3 = 5|5 + 9 = 13|\\boxed{13}", False, 0.9, 0.7, 0.9)
    signed = answer("8 + 3 = 11|11 + 9 = 20|\\boxed{20}", False, 0.1, 0.9, 0.9)
    rows = [
        {"samples": 4, "question": QUESTION, "candidates": [right, right, signed, signed]},
        {"samples": 4, "question": QUESTION, "candidates": [right, summed]},
        {"samples": 4, "question": QUESTION, "candidates": [signed]},
        {"samples": 2, "question": QUESTION, "candidates": [signed]},
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    marks = Marks.of(file)
    assert marks.told == {"result": [0.0], "sign": [1.0], "number": [], "form": []}
    assert (marks.area("sign"), marks.area("result"), marks.area("number")) == (1.0, 0.0, None)
