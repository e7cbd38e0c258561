"""Generated multi-step arithmetic: questions of any number and difficulty, every step of which can be checked.

A question's split is decided by a hash of its text. Train, validation and test therefore never share a question,
whatever seeds, numbers and difficulties they were generated with.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Literal

Split = Literal["train", "validation", "test"]

TENTHS: tuple[Split, ...] = (*("train",) * 8, "validation", "test")
TRIES = 2000
"""Questions in a row that are of another split, or known, before the difficulty is taken to have no more."""

INSTRUCTION = "Write one equation for each step, then put the answer in \\boxed{}."


@dataclass(frozen=True, slots=True)
class Problem:
    """`answer` is a plain integer, never negative; `solution` has one equation a step and the answer boxed."""

    question: str
    answer: str
    solution: str


def generate(count: int, *, steps: int = 3, digits: int = 2, split: Split = "test", seed: int = 0) -> list[Problem]:
    """So many distinct problems of `steps` operations on numbers of up to `digits` digits.

    The same arguments give the same problems, and a greater count the same ones and more. Raise ValueError when the
    split has not so many.
    """
    random = Random(repr((seed, steps, digits)))
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < count:
        problem = draw_problem(random, steps, digits)
        if problem.question in found or split_of(problem.question) != split:
            misses += 1
            if misses == TRIES:
                raise ValueError(f"there are only about {len(found)} {split} questions of this difficulty")
            continue
        found[problem.question] = problem
        misses = 0
    return list(found.values())


def draw_problem(random: Random, steps: int, digits: int) -> Problem:
    """One problem. Nothing is subtracted that is not there, so that no result is negative."""
    value = start = random.randint(1, 10**digits - 1)
    told, equations = [f"Start with {start}"], []
    for _ in range(steps):
        operand = random.randint(1, 10**digits - 1)
        if operand <= value and random.random() < 0.5:
            told.append(f"then subtract {operand}")
            equations.append(f"{value} - {operand} = {value - operand}")
            value -= operand
        else:
            told.append(f"then add {operand}")
            equations.append(f"{value} + {operand} = {value + operand}")
            value += operand
    question = f"{', '.join(told)}. What is the result? {INSTRUCTION}"
    return Problem(question, str(value), "\n\n".join([*equations, f"\\boxed{{{value}}}"]))


def split_of(question: str) -> Split:
    """Eight tenths of all questions are for training, one for validation, one for tests."""
    return TENTHS[int.from_bytes(blake2b(question.encode(), digest_size=8).digest()) % 10]
