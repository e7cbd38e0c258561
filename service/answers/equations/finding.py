"""The expressions on both sides of a sign of equality."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.answers.equations.expressions import Known, Reading, read
from service.answers.equations.numbers import Undecided
from service.answers.equations.tokens import Tokens
from service.answers.equations.units import MEASURED, unit
from service.answers.equations.words import STARTERS

BREAKS = frozenset(".,:~r!")
"""They end a clause."""


@dataclass(frozen=True, slots=True)
class Left:
    """What stands left of a sign of equality, and how."""

    reading: Reading
    chained: bool = False  # it is the right side of the equality before
    clear: bool = True  # a clause begins with it
    crowded: bool = False  # its sentence has other numbers before it
    bullet: int | None = None  # the minus at the begin of the line, which may be its sign


def right_of(tokens: Tokens, known: Known, sign: int) -> Reading:
    """Read what begins behind a sign of equality; raise Undecided where it is not arithmetic."""
    if not tokens.leads(sign + 1, known):
        raise Undecided("what is right of = is not arithmetic")
    return read(tokens, known, sign + 1)


def left_of(tokens: Tokens, known: Known, start: int, sign: int) -> Left:
    """Find the expression that ends at a sign of equality; `start` is the end of what the equality before took."""
    side_by_side = start > 0 and tokens.kinds[start] in ("n", "(") and tokens.kinds[start - 1] != "="
    trouble = "numbers stand side by side" if side_by_side else None
    return Scan(tokens, known, start, sign, trouble, clear=not start).run()


@dataclass(slots=True)
class Scan:
    """Goes once through what stands before a sign of equality."""

    tokens: Tokens
    known: Known
    i: int
    sign: int
    trouble: str | None  # something in this clause cannot be read
    clear: bool  # a clause begins here
    dangling: bool = False  # an operator in this sentence has an operand that cannot be read
    crowded: bool = False  # there was a number in this sentence
    spare: bool = False  # another expression stands in this clause
    bullet: int | None = None
    shaky: str | None = None

    def run(self) -> Left:
        while self.i < self.sign:
            if reading := self.step():
                return self.finish(reading)
        raise Undecided(self.trouble or "what is left of = is not arithmetic")

    def finish(self, reading: Reading) -> Left:
        if self.trouble or self.dangling:
            raise Undecided(self.trouble or "it begins with what is not arithmetic")
        shaky = "another expression stands before it" if self.spare else reading.shaky or self.shaky
        reading = replace(reading, shaky=shaky)
        return Left(reading, clear=self.clear, crowded=self.crowded, bullet=self.bullet)

    def step(self) -> Reading | None:
        """Go on by a token or an expression; return the expression that reaches the sign."""
        kind, i = self.tokens.kinds[self.i], self.i
        if kind in BREAKS:
            self.end_clause(kind)
        elif kind == "(" and self.tokens.partner[i] > self.sign:
            self.enter_bracket()
        elif kind in ("-", "+", "*") and self.is_bullet():
            self.bullet = i if kind == "-" else None
        elif kind == "w" and not self.tokens.leads(i, self.known):
            self.word()
        elif self.tokens.compounds(i):
            self.i += 1
        elif kind in ("-", "+") and not self.clear and i:
            self.dangling = True
        elif not self.trouble and self.tokens.leads(i, self.known):
            return self.expression()
        else:
            self.unreadable(kind)
        self.i += 1
        return None

    def end_clause(self, kind: str) -> None:
        self.trouble, self.spare, self.shaky, self.bullet = None, False, None, None
        if self.i and self.tokens.kinds[self.i - 1] == "n" and self.tokens.ratio(self.i):
            self.trouble = "it has a ratio"
        self.clear = kind != ":" and not (self.crowded and kind == ",")
        if kind == ".":
            self.dangling, self.crowded, self.clear = False, False, True

    def enter_bracket(self) -> None:
        if self.i and self.tokens.kinds[self.i - 1] in ("w", "?") and not self.tokens.spaced[self.i]:
            raise Undecided("it is in a call")
        self.trouble, self.dangling, self.crowded, self.spare, self.clear = None, False, False, False, True

    def is_bullet(self) -> bool:
        begins = self.i == 0 or self.i - 1 in self.tokens.lines
        return begins and self.tokens.spaced[self.i + 1]

    def word(self) -> None:
        """Step over a word, and over the arguments of a function."""
        tokens, word, behind = self.tokens, self.tokens.name(self.i), self.i + 1
        self.clear = word in STARTERS
        if word in STARTERS:
            self.trouble, self.spare = None, False
        if tokens.kinds[behind] == "(" and not tokens.spaced[behind]:
            if tokens.partner[behind] > self.sign:
                raise Undecided("it is in a call")
            self.trouble = f"{word[:20]}(…) is not known"
            self.i = tokens.partner[behind]

    def expression(self) -> Reading | None:
        """Step over an expression; return it where it reaches the sign."""
        start = self.i
        try:
            reading = read(self.tokens, self.known, start)
        except Undecided as undecided:
            self.trouble = str(undecided)
            self.i = self.tokens.partner.get(start, start) + 1
            return None
        if reading.end == self.sign:
            return reading
        self.i = reading.end
        self.pass_by(reading)
        return None

    def pass_by(self, reading: Reading) -> None:
        """Note what an expression in front of another one says of it."""
        words, kinds = self.tokens.words, self.tokens.kinds
        beside = kinds[self.i - 1] in ("n", ")") or not self.tokens.spaced[self.i]
        if kinds[self.i] == "(" or (kinds[self.i] == "n" and beside):
            self.trouble = "numbers stand side by side"  # 2 (6 + 4), or 3!2!
        elif kinds[self.i] == "n" and unit(words[self.i - 1]) in MEASURED:
            self.shaky = "quantities stand side by side"  # 1 week 3 days + 2 days
        self.crowded, self.spare, self.clear = True, self.spare or bool(reading.operators), False

    def unreadable(self, kind: str) -> None:
        if kind == "(":
            self.i = self.tokens.partner[self.i]
            self.clear = False
        elif kind in ("*", "/", "^"):
            self.dangling = True
        else:
            self.trouble = self.trouble or "something before it cannot be read"
