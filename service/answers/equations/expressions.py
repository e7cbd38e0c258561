r"""Reading arithmetic out of tokens: the longest expression at a place, its exact value, and what it is in.

A recursive descent (sum, product, sign, power, operand) with a bound on its depth. Words behind a number are its units,
`3 boxes * 4 apples`. What cannot be read raises `Undecided`; where a reading is one of several possible ones, it says
so (`shaky`), so that nothing is called wrong that was only misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from service.answers.equations import numbers
from service.answers.equations.numbers import Enclosure, Number, Undecided, literal
from service.answers.equations.tokens import Tokens
from service.answers.equations.units import MEASURED, Units, addable
from service.answers.equations.words import SPOKEN_OPERATORS

DEPTH = 30  # of brackets and towers of powers
PLAIN_FRACTION = ["(", "n", ")", "(", "n", ")"]
ENDS_FACTORIAL = frozenset("+-*/^=)")
"""What follows a factorial: another ! is an exclamation mark."""


class Variable(NamedTuple):
    """What is known of a variable. `firm`: a claim against it is wrong; else the name may stand for something else."""

    value: Number
    words: frozenset[str]
    firm: bool


Known = Mapping[str, Variable]


@dataclass(frozen=True, slots=True)
class Reading:
    """An expression: its value, where it stands, and what may speak against calling it unequal to something."""

    start: int
    end: int
    value: Number
    first: Number  # its first operand
    operators: str  # in their order; r is a root
    words: frozenset[str]  # of its units, without those that say nothing
    mixed: bool  # terms in different units are added
    places: int | None  # decimals stated, where it is one number; negative for 12e3
    cut: bool  # that number ends in an ellipsis
    decimals: frozenset[Number]  # its numbers that are no integers
    letters: frozenset[str]  # units of one letter
    shaky: str | None  # why it may mean something else
    weak: bool  # it depends on what may have changed

    @property
    def content(self) -> frozenset[str]:
        """The units that are things: apples."""
        return self.words - {"$", "%"}

    @property
    def measures(self) -> frozenset[str]:
        """The units that can be converted."""
        return self.words & MEASURED


def read(tokens: Tokens, known: Known, start: int) -> Reading:
    """Read the longest expression that begins at a token; raise Undecided where there is none."""
    return Parser(tokens, known, start).read()


@dataclass(slots=True)
class Parser:
    """Reads one expression."""

    tokens: Tokens
    known: Known
    i: int
    depth: int = 0
    operators: str = ""
    term: set[str] = field(default_factory=set)  # the units of the term that is being read
    first: Number | None = None
    operands: int = 0  # numbers; what is no plain number counts twice
    places: int = 0
    cut: bool = False
    partial: bool = False  # the last operand was a fraction or a percentage, of which there is an "of"
    wide: bool = False  # the last operator was a slash with a space behind it
    mixed: bool = False
    decimals: set[Number] = field(default_factory=set)
    letters: set[str] = field(default_factory=set)
    shaky: str | None = None
    weak: bool = False

    def read(self) -> Reading:
        start, value = self.i, self.sum()
        lone = self.operands == 1 and not self.operators
        return Reading(
            start=start,
            end=self.i,
            value=value,
            first=value if self.first is None else self.first,
            operators=self.operators,
            words=frozenset(self.term),
            mixed=self.mixed,
            places=self.places if lone else None,
            cut=self.cut,
            decimals=frozenset(self.decimals),
            letters=frozenset(self.letters),
            shaky=self.shaky,
            weak=self.weak,
        )

    # Operators

    def sum(self) -> Number:
        outer, self.term = self.term, set()
        value, units = self.product(), self.term
        while sign := self.additive():
            self.operators += sign
            self.term = set()
            other = self.product()
            value = numbers.add(value, other) if sign == "+" else numbers.subtract(value, other)
            if units or self.term:
                self.mixed = self.mixed or not addable(units, self.term)
                units |= self.term
        self.term = outer | units
        return value

    def additive(self) -> str:
        """Step over a plus or a minus that an operand follows."""
        kind = self.tokens.kinds[self.i]
        if kind == "w":
            kind = SPOKEN_OPERATORS.get(self.tokens.words[self.i], "")
        if kind not in ("+", "-") or not self.leads(1):
            return ""
        self.i += 1
        return kind

    def product(self) -> Number:
        self.wide = False
        value = self.signed()
        while sign := self.multiplicative():
            if sign == "·" and self.operators.endswith("/"):
                self.shaky = "a quotient of a product can be read in two ways"
            self.operators += "/" if sign == "/" else "*"
            self.partial = sign == "/"
            other = self.signed()
            value = numbers.divide(value, other) if sign == "/" else numbers.multiply(value, other)
            self.partial = self.partial or sign == "/"
        return value

    def multiplicative(self) -> str:
        """Step over the sign of a product or quotient that an operand follows; "·" where there is none to step over."""
        kind = self.tokens.kinds[self.i]
        if kind in ("(", "c", "n"):
            return self.juxtaposed()
        sign, width = self.spoken() if kind == "w" else (kind, 1)
        if sign not in ("*", "/", "·") or not self.leads(width):
            return ""
        loose = self.tokens.spaced[self.i + width]
        if self.wide and not loose:
            self.shaky = "a quotient can be read in two ways"  # 6 / 1/30
        self.wide = loose and sign == "/"
        self.i += width
        return sign

    def spoken(self) -> tuple[str, int]:
        """A word that multiplies or divides, and how many tokens it takes; "·" for a name behind a number."""
        words, i = self.tokens.words, self.i
        word = words[i]
        if word in ("multiplied", "divided") and words[i + 1] == "by":
            return SPOKEN_OPERATORS[word], 2
        if word == "times" or self.tokens.crosses(i):
            return "*", 1
        if word == "of" and self.partial:
            if "+" in self.operators or "-" in self.operators:
                self.shaky = "a part of a sum can be read in two ways"
            return "*", 1
        direct = self.tokens.kinds[i - 1] in ("n", ")") or words[i - 1] in self.known
        return ("·", 0) if direct and (word in self.known or word == "pi") else ("", 0)

    def juxtaposed(self) -> str:
        """Operands side by side multiply: 2(3), (2)(3), 2√3."""
        tokens, i = self.tokens, self.i
        before, kind = tokens.kinds[i - 1], tokens.kinds[i]
        if kind == "n" or (kind == "(" and tokens.spaced[i]):
            return ""
        if before == "w" and tokens.words[i - 1] not in self.known:
            return ""
        return "·" if self.leads(0) else ""

    def leads(self, ahead: int) -> bool:
        """Whether an operand begins so many tokens ahead."""
        return self.tokens.leads(self.i + ahead, self.known)

    def signed(self) -> Number:
        start, before = self.i, len(self.operators)
        while self.tokens.kinds[self.i] in ("-", "+"):
            self.i += 1
        negative = self.tokens.kinds[start : self.i].count("-") % 2 == 1
        value = self.power()
        if negative:
            value = numbers.negate(value)
            if "^" in self.operators[before:]:
                self.shaky = "the sign of a power can be read in two ways"
        if self.first is None and not self.depth:
            self.first = value
        return value

    def power(self) -> Number:
        value = self.operand()
        if self.tokens.kinds[self.i] == "^":
            self.operators += "^"
            self.i += 1
            value = numbers.power(value, self.exponent())
        self.units()
        return value

    def exponent(self) -> Number:
        """What stands behind a ^; towers are read from their top."""
        kinds = self.tokens.kinds
        self.enter()
        negative = kinds[self.i] == "-"
        self.i += negative
        outer, self.term = self.term, set()
        value = self.operand()
        if kinds[self.i] == "^":
            self.i += 1
            value = numbers.power(value, self.exponent())
        self.term = outer
        self.depth -= 1
        return numbers.negate(value) if negative else value

    def enter(self) -> None:
        self.depth += 1
        if self.depth > DEPTH:
            raise Undecided("it is nested too deeply")

    # Operands

    def operand(self) -> Number:
        kind = self.tokens.kinds[self.i]
        if kind == "n":
            return self.behind(self.number())
        if kind == "(":
            return self.behind(self.group())
        if kind == "$":
            return self.money()
        if kind == "c":
            return self.command()
        if kind == "w":
            return self.variable()
        raise Undecided("it is not arithmetic")

    def money(self) -> Number:
        self.term.add(currency(self.tokens.words[self.i]))
        negative = self.tokens.kinds[self.i + 1] == "-"
        self.i += 1 + negative
        if self.tokens.kinds[self.i] not in ("n", "("):
            raise Undecided("it is not arithmetic")
        value = self.operand()
        return numbers.negate(value) if negative else value

    def number(self) -> Number:
        """A literal, and the fraction of a mixed number behind it."""
        value, self.places = literal(self.tokens.words[self.i])
        self.i += 1
        self.operands += 1
        self.partial = False
        if self.places > 0:
            self.decimals.add(value)
        kind = self.tokens.kinds[self.i]
        if self.places == 0 and (kind == "c" or (kind == "n" and self.tokens.spaced[self.i])):
            return numbers.add(value, self.fraction_behind())
        return value

    def fraction_behind(self) -> Number:
        r"""The 1/2 of 2 1/2 or 2\frac{1}{2}; nothing where it is no proper fraction."""
        tokens, i = self.tokens, self.i
        if tokens.words[i].endswith("frac") and tokens.kinds[i + 1 : i + 7] == PLAIN_FRACTION:
            over, under, width = i + 2, i + 5, 7
        elif tokens.kinds[i : i + 3] == ["n", "/", "n"] and not tokens.spaced[i + 1]:
            over, under, width = i, i + 2, 3
        else:
            return 0
        value = numbers.divide(literal(tokens.words[over])[0], literal(tokens.words[under])[0])
        if not isinstance(value, Fraction) or not 0 < value < 1:
            return 0
        self.shaky = self.shaky or "a mixed number can be read in two ways"
        self.i += width
        self.operands += 1
        return value

    def behind(self, value: Number) -> Number:
        """What follows an operand and belongs to it: an ellipsis, a factorial, a percent sign, a currency."""
        tokens, i = self.tokens, self.i
        kind, after = tokens.kinds[i], tokens.kinds[i + 1 : i + 2]
        if kind == "%":
            return self.percent(value)
        if kind == "!" and ENDS_FACTORIAL.issuperset(after):
            self.operators += "!"
            value = numbers.factorial_of(value)
        elif kind == "…" and tokens.kinds[i - 1] == "n" and self.places:
            self.cut = True
        elif kind == "$" and after != ["n"]:
            self.term.add(currency(tokens.words[i]))
        else:
            return value
        self.i += 1
        return value

    def percent(self, value: Number) -> Number:
        self.i += 1
        if self.tokens.kinds[self.i] in ("n", "(", "$"):
            raise Undecided("% may be a remainder")
        self.partial = True
        self.term.add("%")
        return numbers.divide(value, 100)

    def group(self) -> Number:
        """What brackets enclose."""
        self.enter()
        close = self.tokens.partner[self.i]
        self.i += 1
        value = self.sum()
        if self.i != close:
            raise Undecided("brackets enclose what is not arithmetic")
        self.i += 1
        self.depth -= 1
        return value

    def command(self) -> Number:
        name = self.tokens.words[self.i].lstrip("\\")
        self.i += 1
        self.operands += 2
        if name == "pi":
            return numbers.PI
        return self.root() if name in ("sqrt", "surd") else self.fraction()

    def fraction(self) -> Number:
        r"""What stands behind \frac: {1}{2} or 12."""
        digits = self.tokens.words[self.i]
        if self.tokens.kinds[self.i] == "n" and len(digits) == 2 and digits.isdigit():
            self.i += 1
            self.operators += "/"
            return self.behind(numbers.divide(int(digits[0]), int(digits[1])))
        above = self.braced()
        self.operators += "/"
        value = numbers.divide(above, self.braced())
        self.partial = True
        return value

    def braced(self) -> Number:
        if self.tokens.words[self.i] != "{" or self.tokens.kinds[self.i] != "(":
            raise Undecided("a fraction has no braces")
        return self.group()

    def root(self) -> Number:
        degree: Number = 2
        self.operators += "r"
        if self.tokens.words[self.i] == "[" and self.tokens.kinds[self.i] == "(":
            degree = self.group()
        if not isinstance(degree, int):
            raise Undecided("a root of this degree is not computed")
        self.enter()
        value = numbers.root(self.operand(), degree)
        self.depth -= 1
        return value

    def variable(self) -> Number:
        word = self.tokens.words[self.i]
        self.i += 1
        self.operands += 2
        if variable := self.known.get(word):
            self.term |= variable.words
            exactly = not isinstance(variable.value, Enclosure) and variable.value.denominator == 1
            self.weak = self.weak or not variable.firm or not exactly
            return variable.value
        if word == "pi":
            return numbers.PI
        if word == "sqrt" and self.tokens.words[self.i] == "(":
            return self.root()
        raise Undecided(f"{word[:20]} is not known")

    def units(self) -> None:
        """Step over the units behind an operand."""
        of = self.partial or self.operators.endswith("/")
        units = Units(self.tokens, self.known, self.i, of, "$" in self.term, shaky=self.shaky)
        units.read()
        self.i, self.shaky = units.i, units.shaky
        self.term |= units.words
        self.letters |= units.letters


def currency(sign: str) -> str:
    return sign.lstrip("\\")
