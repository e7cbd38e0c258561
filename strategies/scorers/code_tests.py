"""Whether the code of an answer passes tests: run in a sandbox, not judged.

Executable tests as the verifier of sampled programs: Chen et al., 2022, "CodeT" (arXiv:2207.10397); here the tests are
the caller's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from strategies.errors import InvalidParameter
from strategies.knobs import knob
from strategies.scorers.computed import checked, checker_of
from strategies.types import Candidate, NamedScorer, ScorerContext, Scores

STDIN, STDOUT = "stdin", "stdout"
MOST_TESTS, LONGEST_TEST = 100, 65_536  # tests; characters of all of them


@dataclass(frozen=True, slots=True)
class CodeTests(NamedScorer):
    """Runs the last block of code of an answer with each test: the share that passes. What the sandbox does not
    support is no opinion."""

    type: ClassVar[str] = "tests"
    summary: ClassVar[str] = "Runs the answer's code with tests of the request, in a sandbox."
    cost: ClassVar[str] = "no tokens"

    tests: tuple[str | dict[str, Any], ...] = knob(
        (), 'Code that raises where the answer is wrong, or {"stdin": …, "stdout": …}.', max_length=MOST_TESTS
    )

    def __post_init__(self) -> None:
        where = "strategy.scorer.tests"
        if not self.tests:
            raise InvalidParameter(where, "must have at least one test")
        for index, test in enumerate(self.tests):
            if not isinstance(test, str) and not is_pair(test):
                message = 'must be code, or an object with the texts "stdin" and "stdout"'
                raise InvalidParameter(f"{where}[{index}]", message)
        if sum(map(length, self.tests)) > LONGEST_TEST:
            raise InvalidParameter(where, f"must have at most {LONGEST_TEST} characters together")

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> Sequence[Scores]:
        checks = await checker_of(session).tests([c.text for c in candidates], self.tests)
        return checked(session, candidates, [[check] for check in checks])


def is_pair(test: Mapping[str, Any]) -> bool:
    return test.keys() == {STDIN, STDOUT} and all(isinstance(text, str) for text in test.values())


def length(test: str | Mapping[str, Any]) -> int:
    return len(test) if isinstance(test, str) else sum(map(len, test.values()))
