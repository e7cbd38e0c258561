"""Whether the equalities of one step hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from service.answers.equations import numbers
from service.answers.equations.definitions import Definitions, defined, variable
from service.answers.equations.doubts import (
    LABEL,
    doubtful_letters,
    doubtful_names,
    doubtful_rounding,
    doubtful_spelling,
    doubtful_units,
)
from service.answers.equations.expressions import Reading, read
from service.answers.equations.finding import Left, left_of, right_of
from service.answers.equations.numbers import Undecided
from service.answers.equations.rounding import states
from service.answers.equations.surroundings import depends, doubtful_end, doubtful_place
from service.answers.equations.tokens import Tokens
from service.answers.equations.words import BLOCKERS, ROUNDING, SCOPE

SHOWN = 80  # characters of an equation that is false
NOTHING = "nothing is asserted"


@dataclass(frozen=True, slots=True)
class StepCheck:
    """What checking one step says.

    `holds`: whether all equalities hold that can be checked; None is no opinion, neither right nor wrong. `reason`: the
    equality that is false, as written and shortened; for None, why there is no opinion.
    """

    holds: bool | None
    reason: str | None = None


@dataclass
class Step:
    """One step of a solution."""

    text: str
    tokens: Tokens
    definitions: Definitions
    begin: int = 0  # the first token of the equality that was looked at last

    @cached_property
    def scoped(self) -> bool:
        """Whether names may come to stand for something else in this step."""
        return SCOPE.search(self.text) is not None

    @cached_property
    def rounding(self) -> bool:
        """Whether the step speaks of rounding, or of what remains."""
        return ROUNDING.search(self.text) is not None

    def check(self, signs: list[int]) -> StepCheck:
        """Check the equalities at these signs, up to the first that does not hold."""
        if self.scoped:
            self.definitions.loosen()
        self.note_estimates()
        reasons: list[str] = []
        right: Reading | None = None
        start = 0
        for sign in signs:
            chained = right if right is not None and right.end == sign else None
            right = None
            try:
                right = right_of(self.tokens, self.definitions.known, sign)
                if not self.holds(sign, start, chained, right):
                    return StepCheck(False, self.tokens.slice(self.begin, right.end)[:SHOWN])
            except Undecided as undecided:
                reasons.append(str(undecided))
            start = right.end if right else sign + 1
        if len(reasons) < len(signs):
            return StepCheck(True)
        return StepCheck(None, reasons[0] if reasons else NOTHING)

    def note_estimates(self) -> None:
        """Remember what was stated as approximate."""
        tokens, known = self.tokens, self.definitions.known
        for i, kind in enumerate(tokens.kinds):
            if kind == "~" and tokens.leads(i + 1, known):
                try:
                    self.definitions.rounded.add(read(tokens, known, i + 1).value)
                except Undecided:
                    continue

    def holds(self, sign: int, start: int, chained: Reading | None, right: Reading) -> bool:
        """Whether one equality holds; raise Undecided for no opinion."""
        known = self.definitions.known
        doubt = doubtful_end(self.tokens, known, right.end)
        if chained is None and (name := defined(self.tokens, sign)):
            self.begin = sign - 1
            self.definitions.define(name, variable(name, right, doubt is None, self.scoped))
        left = Left(chained, chained=True) if chained else left_of(self.tokens, known, start, sign)
        self.begin = left.reading.start
        self.refuse(left, right)
        if self.agrees(left, right, sign):
            return True
        if why := left.reading.shaky or right.shaky or doubt or self.excuse(left, right, sign):
            raise Undecided(why)
        return False

    def refuse(self, left: Left, right: Reading) -> None:
        """Raise Undecided for what asserts nothing that can be checked, equal or not."""
        reading = left.reading
        if not left.chained:
            if not reading.operators and (reading.words - {"%"} or not left.clear):
                raise Undecided(LABEL)
            if (word := depends(self.tokens, reading.start)) in BLOCKERS:
                raise Undecided(f"“{word}” stands before it")
        if why := doubtful_letters(reading, right):
            raise Undecided(why)

    def agrees(self, left: Left, right: Reading, sign: int) -> bool:
        """Whether both sides have the same value, as stated."""
        value = left.reading.value
        if numbers.same(value, right.value):
            return True
        if states(right, value):
            self.definitions.rounded.add(right.value)
            return True
        if left.bullet is None:
            return False
        other = read(self.tokens, self.definitions.known, left.bullet)  # the bullet may have been a minus
        return other.end == sign and numbers.same(other.value, right.value)

    def excuse(self, left: Left, right: Reading, sign: int) -> str | None:
        """Why sides that are unequal as read may be equal as meant."""
        words = self.tokens.words[left.reading.start : right.end]
        return (
            doubtful_units(left, right)
            or doubtful_place(self.tokens, left, sign)
            or doubtful_spelling(self.tokens, left, right, self.definitions.known)
            or doubtful_rounding(left, right, self.definitions, self.rounding)
            or doubtful_names(left.reading, right, self.definitions, words)
        )
