"""What the steps of a solution have said: the values of names, and the numbers that were rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

from service.answers.equations.expressions import Reading, Variable
from service.answers.equations.numbers import Number, Undecided
from service.answers.equations.tokens import Tokens
from service.answers.equations.words import DEFINERS, MANY_VALUED


@dataclass
class Definitions:
    """Grows while a solution is read."""

    steps: Sequence[str]
    known: dict[str, Variable] = field(default_factory=dict)
    rounded: set[Number] = field(default_factory=set)  # values that were stated rounded
    firm: list[str] = field(default_factory=list)  # names that stand for one thing so far

    @cached_property
    def many_valued(self) -> bool:
        """Whether a name of this solution may have several values."""
        return any(MANY_VALUED.search(text) for text in self.steps)

    def loosen(self) -> None:
        """From here on, every name may stand for something else."""
        for name in self.firm:
            self.known[name] = self.known[name]._replace(firm=False)
        self.firm.clear()

    def define(self, name: str, new: Variable) -> NoReturn:
        """Learn the value of a name, which is no claim. One that had another value may have any from here on: cases,
        roots and corrections look alike."""
        old = self.known.get(name)
        same = old is None or old.value == new.value
        self.known[name] = new if same else new._replace(firm=False)
        if same and new.firm:
            self.firm.append(name)
        raise Undecided("it is a definition" if same else f"{name} has several values")


def defined(tokens: Tokens, sign: int) -> str | None:
    """The name that an equality defines: a word alone at the begin of a clause."""
    i = sign - 1
    if not tokens.name(i):
        return None
    before = tokens.kinds[i - 1] if i else "."
    if before == "(":
        return tokens.words[i] if i == 1 or tokens.spaced[i - 1] else None  # else it is a call: f(x = 5)
    letter = len(tokens.words[i]) == 1 and tokens.name(i - 1) in DEFINERS
    return tokens.words[i] if i in tokens.opened or before in (".", ",", ":") or letter else None


def variable(name: str, right: Reading, sure: bool, scoped: bool) -> Variable:
    """What an equality says of a name. `sure`: nothing behind it may belong to it; `scoped`: other names may begin."""
    firm = sure and not right.shaky and not scoped and len(name.lstrip("\\").partition("_")[0]) == 1
    return Variable(right.value, right.content, firm)
