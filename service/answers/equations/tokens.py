"""The tokens of a text, and what can be told from a few of them.

The kinds: `n` number, `w` word or name, `+ - * / ^ ! %` operators, `( )` all brackets, `=` the sign of equality and
nothing else that has one in it, `~` approximately, `r` another relation, `$` currency, `c` a LaTeX command with
arguments, `…` an ellipsis, `?` anything unknown; `,` and `:` end a clause, `.` ends a sentence or a line.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

SENTENCE = 100  # tokens before and behind one that its sentence has at most
PREFIXES = 30  # brackets and signs in front of an operand


@dataclass(slots=True)
class Tokens:
    """The tokens of a text, as lists side by side; a `.` stands behind the last."""

    text: str
    kinds: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # as spelled
    starts: list[int] = field(default_factory=list)  # in the text
    spaced: list[bool] = field(default_factory=list)  # whether there is a space before
    partner: dict[int, int] = field(default_factory=dict)  # of a bracket: the other one
    opened: set[int] = field(default_factory=set)  # first tokens behind the opening of a formula
    lines: set[int] = field(default_factory=set)  # line ends

    def append(self, kind: str, word: str, start: int, spaced: bool) -> None:
        self.kinds.append(kind)
        self.words.append(word)
        self.starts.append(start)
        self.spaced.append(spaced)

    def name(self, i: int) -> str:
        """The word at a place, in small letters; empty where there is none."""
        return self.words[i].lower() if i >= 0 and self.kinds[i] == "w" else ""

    def tight(self, start: int, end: int) -> bool:
        """Whether no space stands before any of these tokens."""
        return not any(self.spaced[start:end])

    def slice(self, start: int, end: int) -> str:
        """The text of some tokens, on one line."""
        return " ".join(self.text[self.starts[start] : self.starts[end]].split())

    def sentence(self, i: int) -> str:
        """The text around a token, up to the ends of its sentence, or for a while."""
        start = end = i
        while start > max(i - SENTENCE, 0) and self.kinds[start - 1] != ".":
            start -= 1
        while end < i + SENTENCE and self.kinds[end] != ".":
            end += 1
        return self.text[self.starts[start] : self.starts[end]]

    def leads(self, i: int, names: Container[str]) -> bool:
        """Whether an operand begins here: a number, a command, or one of these names."""
        for j in range(i, min(i + PREFIXES, len(self.kinds))):
            kind = self.kinds[j]
            if kind in ("n", "c"):
                return True
            if kind == "w":
                word = self.words[j]
                return word in names or word == "pi" or (word == "sqrt" and self.words[j + 1] == "(")
            if kind not in ("(", "-", "+", "$"):
                return False
        return False

    def crosses(self, i: int) -> bool:
        """Whether an x between two operands is a sign of multiplication: `3 x 4`, `3x4`, not `3x(4 + y)`."""
        if self.words[i] not in ("x", "X"):
            return False
        if self.spaced[i] and self.spaced[i + 1]:
            return True
        return self.kinds[i + 1] == "n" and self.spaced[i] == self.spaced[i + 1]

    def remarks(self, i: int) -> bool:
        """Whether brackets enclose a few words only."""
        close = self.partner[i]
        return close - i <= 5 and set(self.kinds[i + 1 : close]) == {"w"}

    def compounds(self, i: int) -> bool:
        """Whether a hyphen makes a word, as in 12-mile."""
        parts = self.kinds[i - 1 : i + 2] == ["n", "-", "w"]
        return parts and self.tight(i, i + 2)

    def ratio(self, i: int) -> bool:
        """Whether a colon is close to the number behind it, as in 3:4 or 8:15."""
        return self.kinds[i : i + 2] == [":", "n"] and not self.spaced[i + 1]
