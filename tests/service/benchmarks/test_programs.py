"""The programming tasks: each is solved by its solution, in Monty and in CPython, and not by its mistake."""

from __future__ import annotations

import pytest

from service.benchmarks.programs import PROGRAMS, Program
from service.sandbox import last_code_block
from tests.conftest import shared_sandbox


def test_there_are_thirty_tasks() -> None:
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS) == 30


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
async def test_a_solution_passes_and_a_mistake_fails(program: Program) -> None:
    sandbox = shared_sandbox()
    right = await sandbox.run_tests(program.with_body(program.solution), program.tests)
    assert (right.passed, right.failed, right.unsupported) == (len(program.tests), 0, None), right
    wrong = await sandbox.run_tests(program.with_body(program.wrong), program.tests)
    assert wrong.failed > 0, wrong
    assert wrong.unsupported is None, wrong
    assert wrong.passed + wrong.failed == len(program.tests)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_python_itself_agrees_with_every_case(program: Program) -> None:
    """An independent interpreter; these solutions are our own."""
    for test in program.tests:
        exec(f"{program.with_body(program.solution)}\n{test}", {})


def test_a_question_shows_the_function_and_no_case() -> None:
    program = PROGRAMS[0]
    assert last_code_block(program.question) == program.heading.rstrip()
    assert "assert" not in program.question
