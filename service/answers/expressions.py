r"""Reading arithmetic out of tokens: the longest expression at a place, its exact value, and what it is in.

A recursive descent (sum, product, sign, power, operand) with a bound on its depth. Words behind a number are its units,
`3 boxes * 4 apples`. What cannot be read raises `Undecided`; where a reading is one of several possible ones, it says
so (`shaky`), so that nothing is called wrong that was only misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from service.answers import exact
from service.answers.exact import Enclosure, Number, Undecided
from service.answers.mathtext import Tokens

DEPTH = 30  # of brackets, signs and towers of powers
DIGITS = 100  # of one number
EXPONENT = 300  # of a number in scientific notation
UNIT_WORDS = 12


class Variable(NamedTuple):
    """What is known of a variable. `firm`: a claim against it is wrong; else the name may stand for something else."""

    value: Number
    words: frozenset[str]
    plain: bool  # stated as a number
    firm: bool
    step: int


Known = Mapping[str, Variable]


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEASURES = {
    alias: canonical
    for canonical, aliases in {
        "second": "s sec secs second seconds",
        "minute": "min mins minute minutes",
        "hour": "h hr hrs hour hours hourly",
        "day": "day days daily",
        "week": "week weeks wk wks weekly",
        "fortnight": "fortnight fortnights",
        "month": "month months monthly",
        "year": "year years yr yrs yearly annually",
        "decade": "decade decades",
        "century": "century centuries",
        "millimeter": "mm millimeter millimeters millimetre millimetres",
        "centimeter": "cm centimeter centimeters centimetre centimetres",
        "meter": "m meter meters metre metres",
        "kilometer": "km kms kilometer kilometers kilometre kilometres",
        "inch": "inch inches",
        "foot": "ft foot feet",
        "yard": "yd yds yard yards",
        "mile": "mi mile miles",
        "mph": "mph",
        "kph": "kph kmh",
        "milligram": "mg milligram milligrams",
        "gram": "g gram grams",
        "kilogram": "kg kgs kilogram kilograms kilo kilos",
        "ton": "ton tons tonne tonnes",
        "ounce": "oz ounce ounces",
        "pound": "lb lbs pound pounds",
        "milliliter": "ml mL milliliter milliliters millilitre millilitres",
        "liter": "l L liter liters litre litres",
        "teaspoon": "tsp teaspoon teaspoons",
        "tablespoon": "tbsp tablespoon tablespoons",
        "cup": "cup cups",
        "pint": "pint pints",
        "quart": "quart quarts",
        "gallon": "gal gallon gallons",
        "$": "dollar dollars euro euros buck bucks usd USD",
        "cent": "cent cents penny pennies",
        "nickel": "nickel nickels",
        "dime": "dime dimes",
        "degree": "degree degrees",
        "radian": "radian radians",
        "byte": "byte bytes",
        "kilobyte": "kb KB kilobyte kilobytes",
        "megabyte": "mb MB megabyte megabytes",
        "gigabyte": "gb GB gigabyte gigabytes",
    }.items()
    for alias in aliases.split()
}
LETTERS = words_of("m g s h l L")  # units, unless they are variables
MEASURED = frozenset(MEASURES.values()) | frozenset("£€¥₹")
SCALES = words_of(
    "k thousand million billion trillion hundred dozen pair couple score gross half halve third quarter fourth fifth "
    "sixth seventh eighth ninth tenth hundredth thousandth lakh crore bn mm percentage point time twice "
    "one two three four five six seven eight nine ten eleven twelve twenty"
)
"""Words that multiply, or may."""
STOP_WORDS = words_of(
    "of the a an per each in for to from on at every total more left altogether remaining his her their its my our "
    "another other extra additional all both with by into out square cubic only just than less fewer as many much "
    "A I these those there st nd rd th ths"
)
CONNECTIVES = words_of(
    "and so then thus hence therefore because since but if or when where while giving gives leaving leaves making "
    "makes make is are means meaning gets equal yields And So Then Thus Hence Therefore Because Since But If Or When "
    "While"
)
SPOKEN = {"times": "*", "plus": "+", "minus": "-", "multiplied": "*", "divided": "/"}
PLAIN_FRACTION = ["(", "n", ")", "(", "n", ")"]
ORDINAL = words_of("st nd rd th ths")
ENDS_FACTORIAL = frozenset("+-*/^=)")


@lru_cache(maxsize=4096)
def unit(word: str) -> str:
    """One name for the spellings of a unit, mostly the singular."""
    if canonical := MEASURES.get(word) or MEASURES.get(word.lower()):
        return canonical
    word = word.lower().removesuffix("'s")
    for plural, singular in (
        ("ies", "y"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
        ("lves", "lf"),
    ):
        if len(word) > 4 and word.endswith(plural):
            return word.removesuffix(plural) + singular
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@dataclass(slots=True)
class Reading:
    """An expression: its value, where it stands, and what may speak against calling it unequal to something."""

    start: int
    end: int
    value: Number
    first: Number  # its first operand
    operators: str
    words: frozenset[str]  # of its units, without those that say nothing
    mixed: bool  # terms in different units are added
    places: int | None  # decimals stated, where it is one number; negative for 12e3
    cut: bool  # that number ends in an ellipsis
    decimals: list[Number]
    letters: set[str]  # units of one letter
    shaky: str | None  # why it may mean something else
    weak: bool  # it depends on what may have changed

    @property
    def content(self) -> frozenset[str]:
        return self.words - {"$", "%"}

    @property
    def measures(self) -> frozenset[str]:
        return self.words & MEASURED


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
    numbers: int = 0
    places: int | None = None
    cut: bool = False
    partial: bool = False  # the last operand was a fraction or a percentage, of which there is an "of"
    wide: bool = False  # the last operator was a slash with a space behind it
    mixed: bool = False
    decimals: list[Number] = field(default_factory=list)
    letters: set[str] = field(default_factory=set)
    shaky: str | None = None
    weak: bool = False

    def read(self) -> Reading:
        start = self.i
        value = self.sum()
        lone = self.numbers == 1 and not self.operators
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
            decimals=self.decimals,
            letters=self.letters,
            shaky=self.shaky,
            weak=self.weak,
        )

    def sum(self) -> Number:
        outer, self.term = self.term, set()
        value = self.product()
        whole = self.term
        while sign := self.additive():
            self.operators += sign
            self.term = set()
            other = self.product()
            value = exact.add(value, other) if sign == "+" else exact.subtract(value, other)
            if whole or self.term:
                self.mixed = self.mixed or not addable(whole, self.term)
                whole |= self.term
        self.term = outer | whole if outer else whole
        return value

    def additive(self) -> str:
        """Step over a plus or a minus that an operand follows."""
        kind = self.tokens.kinds[self.i]
        if kind == "w":
            kind = SPOKEN.get(self.tokens.words[self.i], "")
        if kind not in ("+", "-") or not leading(self.tokens, self.i + 1, self.known):
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
            value = exact.divide(value, other) if sign == "/" else exact.multiply(value, other)
            self.partial = self.partial or sign == "/"
        return value

    def multiplicative(self) -> str:
        """Step over the sign of a product or quotient that an operand follows; "·" where there is none to step over."""
        kind, i = self.tokens.kinds[self.i], self.i
        if kind in ("*", "/"):
            sign, width = kind, 1
        elif kind == "w":
            sign, width = self.spoken()
        elif kind in ("(", "c", "n"):
            return self.juxtaposed()
        else:
            return ""
        if not sign or not leading(self.tokens, i + width, self.known):
            return ""
        loose = self.tokens.spaced[i + width]
        if self.wide and not loose:
            self.shaky = "a quotient can be read in two ways"  # 6 / 1/30
        self.wide = loose and sign == "/"
        self.i += width
        return sign or "·"

    def spoken(self) -> tuple[str, int]:
        """A word that multiplies or divides, and how many tokens it takes."""
        words, i = self.tokens.words, self.i
        word = words[i]
        if word in ("multiplied", "divided"):
            return (SPOKEN[word], 2) if words[i + 1] == "by" else ("", 0)
        if word == "times" or (word in ("x", "X") and crossed(self.tokens, i)):
            return "*", 1
        if word == "of" and self.partial:
            if "+" in self.operators or "-" in self.operators:
                self.shaky = "a part of a sum can be read in two ways"
            return "*", 1
        direct = self.tokens.kinds[i - 1] in ("n", ")") or words[i - 1] in self.known
        if direct and (word in self.known or word == "pi"):
            return "·", 0
        return "", 0

    def juxtaposed(self) -> str:
        """Operands side by side multiply: 2(3), (2)(3), 2√3."""
        tokens, i = self.tokens, self.i
        if tokens.kinds[i - 1] == "w" and tokens.words[i - 1] not in self.known:
            return ""
        if tokens.kinds[i] == "n":
            if tokens.kinds[i - 1] == ")" and not tokens.spaced[i]:
                raise Undecided("a number follows a bracket")
            return ""
        if tokens.kinds[i] == "(" and tokens.spaced[i]:
            if tokens.kinds[i - 1] != ")":
                return ""
            self.shaky = "brackets stand side by side"
        return "·" if leading(tokens, i, self.known) else ""

    def signed(self) -> Number:
        negative, kinds, start = False, self.tokens.kinds, self.i
        while kinds[self.i] in ("-", "+"):
            negative ^= kinds[self.i] == "-"
            self.i += 1
        if self.i - start > DEPTH:
            raise Undecided("there are too many signs")
        before = len(self.operators)
        value = self.power()
        if negative and "^" in self.operators[before:]:
            self.shaky = "the sign of a power can be read in two ways"
        if self.first is None and not self.depth:
            self.first = exact.negate(value) if negative else value
        return exact.negate(value) if negative else value

    def power(self) -> Number:
        value = self.operand()
        if self.tokens.kinds[self.i] == "^":
            self.operators += "^"
            self.i += 1
            value = exact.power(value, self.exponent())
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
            value = exact.power(value, self.exponent())
        self.term = outer
        self.depth -= 1
        return exact.negate(value) if negative else value

    def enter(self) -> None:
        self.depth += 1
        if self.depth > DEPTH:
            raise Undecided("it is nested too deeply")

    def operand(self) -> Number:
        kind = self.tokens.kinds[self.i]
        if kind == "n":
            return self.behind(self.number())
        if kind == "(":
            return self.behind(self.group())
        if kind == "$":
            self.term.add(currency(self.tokens.words[self.i]))
            self.i += 1
            return self.signed_money()
        if kind == "c":
            return self.command()
        if kind == "w":
            return self.variable()
        raise Undecided("it is not arithmetic")

    def signed_money(self) -> Number:
        negative = self.tokens.kinds[self.i] == "-"
        self.i += negative
        if self.tokens.kinds[self.i] not in ("n", "("):
            raise Undecided("it is not arithmetic")
        value = self.operand()
        return exact.negate(value) if negative else value

    def number(self) -> Number:
        """A literal, and the fraction of a mixed number behind it."""
        value, self.places = literal(self.tokens.words[self.i])
        self.i += 1
        self.numbers += 1
        self.partial = False
        if self.places > 0:
            self.decimals.append(value)
        kinds, i = self.tokens.kinds, self.i
        if self.places == 0 and ((kinds[i] == "n" and self.tokens.spaced[i]) or kinds[i] == "c"):
            return exact.add(value, self.fraction_behind())
        return value

    def fraction_behind(self) -> Number:
        r"""The 1/2 of 2 1/2 or 2\frac{1}{2}; nothing where it is no proper fraction."""
        tokens, i = self.tokens, self.i
        operators, numbers = self.operators, self.numbers
        value: Number = 0
        if tokens.words[i].endswith("frac") and tokens.kinds[i + 1 : i + 7] == PLAIN_FRACTION:
            value = self.command()
        elif tokens.kinds[i : i + 3] == ["n", "/", "n"] and not tokens.spaced[i + 1]:
            value = exact.divide(literal(tokens.words[i])[0], literal(tokens.words[i + 2])[0])
            self.i = i + 3
        if not isinstance(value, Fraction) or not 0 < value < 1:
            self.i, self.operators, self.numbers = i, operators, numbers
            return 0
        self.shaky = self.shaky or "a mixed number can be read in two ways"
        self.operators, self.numbers, self.partial = operators, numbers + 1, False
        return value

    def behind(self, value: Number) -> Number:
        """What follows an operand and belongs to it: an ellipsis, a factorial, a percent sign, a currency."""
        tokens, i = self.tokens, self.i
        kind = tokens.kinds[i]
        if kind == "…" and tokens.kinds[i - 1] == "n" and self.places:
            self.cut = True
            self.i += 1
        elif kind == "!" and tokens.kinds[i + 1] in ENDS_FACTORIAL:
            self.operators += "!"
            self.i += 1
            return exact.factorial_of(value)
        elif kind == "%":
            if tokens.kinds[i + 1] in ("n", "(", "$"):
                raise Undecided("% may be a remainder")
            self.i += 1
            self.partial = True
            self.term.add("%")
            return exact.divide(value, 100)
        elif kind == "$" and tokens.kinds[i + 1] != "n":
            self.term.add(currency(tokens.words[i]))
            self.i += 1
        return value

    def group(self) -> Number:
        """What brackets enclose."""
        if self.tokens.partner.get(self.i) is None:
            raise Undecided("a bracket is not closed")
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
        self.numbers += 2  # it is no plain number
        if name == "pi":
            return exact.PI
        if name in ("sqrt", "surd"):
            return self.root()
        digits = self.tokens.words[self.i]
        if self.tokens.kinds[self.i] == "n" and len(digits) == 2 and digits.isdigit():
            self.i += 1
            over, under = int(digits[0]), int(digits[1])
            self.operators += "/"
            return self.behind(exact.divide(over, under))
        above = self.braced()
        self.operators += "/"
        value = exact.divide(above, self.braced())
        self.partial = True
        return value

    def braced(self) -> Number:
        if self.tokens.words[self.i] != "{":
            raise Undecided("a fraction has no braces")
        return self.group()

    def root(self) -> Number:
        degree: Number = 2
        self.operators += "r"
        if self.tokens.words[self.i] == "[":
            degree = self.group()
        if not isinstance(degree, int):
            raise Undecided("a root of this degree is not computed")
        self.enter()
        value = exact.root(self.operand(), degree)
        self.depth -= 1
        return value

    def variable(self) -> Number:
        word = self.tokens.words[self.i]
        self.i += 1
        self.numbers += 2
        if variable := self.known.get(word):
            self.term |= variable.words
            exactly = not isinstance(variable.value, Enclosure) and variable.value.denominator == 1
            self.weak = self.weak or not variable.firm or not exactly
            return variable.value
        if word == "pi":
            return exact.PI
        if word == "sqrt" and self.tokens.words[self.i] == "(":
            return self.root()
        raise Undecided(f"{word[:20]} is not known")

    def units(self) -> None:
        """Step over the words behind an operand, and remember those that say what it is in."""
        tokens, start = self.tokens, self.i
        kinds, words = tokens.kinds, tokens.words
        while self.i - start < UNIT_WORDS:
            i = self.i
            if kinds[i] == "w" and self.is_unit(i):
                self.add_unit(words[i])
                self.i += 1
                self.step_over_exponent()
            elif kinds[i] == "/" and kinds[i + 1] == "w" and not tokens.spaced[i + 1] and self.per(i, start):
                self.i += 1
            elif kinds[i] == "(" and kinds[i + 1] == "w" and remark(tokens, i) and tokens.spaced[i]:
                for word in words[i + 1 : tokens.partner[i]]:
                    self.add_unit(word)
                self.i = tokens.partner[i] + 1
            else:
                return

    def step_over_exponent(self) -> None:
        """The 2 of cm^2 or of cm^{2}."""
        tokens, i = self.tokens, self.i
        if tokens.kinds[i] != "^" or tokens.words[i - 1] not in MEASURES:
            return
        if tokens.kinds[i + 1] == "n":
            self.i += 2
        elif tokens.kinds[i + 1] == "(" and tokens.kinds[i + 2] == "n":
            self.i = tokens.partner[i + 1] + 1

    def per(self, i: int, start: int) -> bool:
        """Whether a slash before a word makes a unit, as in $5/card, rather than a quotient of something unknown."""
        word = self.tokens.words[i + 1]
        if word in self.known or (len(word) == 1 and word not in LETTERS):
            return False
        if i == start and "$" not in self.term:
            self.shaky = f"it is not known what /{word[:20]} means"
        return True

    def add_unit(self, word: str) -> None:
        if word not in STOP_WORDS:
            self.term.add(unit(word))

    def is_unit(self, i: int) -> bool:
        """Whether a word belongs to what stands before it; raise Undecided for what looks like a variable."""
        tokens, word = self.tokens, self.tokens.words[i]
        if word in CONNECTIVES or word in self.known or word == "pi":
            return False
        if word in SPOKEN or word == "of":
            width = 2 if word in ("multiplied", "divided") else 1
            operator = leading(tokens, i + width, self.known) and (
                word != "of" or self.partial or self.operators.endswith("/")
            )
            return not operator
        if len(word) == 1 or not word.isalpha():
            return self.is_letter_unit(i, word)
        if word in ORDINAL and not tokens.spaced[i]:
            self.shaky = "it is an ordinal"
        elif not tokens.spaced[i] and len(word) <= 3 and word not in MEASURES and tokens.kinds[i - 1] != "/":
            raise Undecided(f"{word} is not known")
        return True

    def is_letter_unit(self, i: int, word: str) -> bool:
        tokens = self.tokens
        if word in ("x", "X") and crossed(tokens, i) and leading(tokens, i + 1, self.known):
            return False
        if word in ("a", "A", "I") and tokens.spaced[i] and tokens.kinds[i + 1] == "w":
            return True
        if "-" in word or "'" in word or (len(word) > 2 and word[:2].isalpha()):
            return "_" not in word
        behind = tokens.words[i - 1]
        if word.isupper() and word.isalpha() and tokens.spaced[i] and len(behind) > 2 and behind.isalpha():
            self.shaky = self.shaky or f"{word} may be a variable"  # or a name: from bucket B
            return True
        if word not in LETTERS:
            raise Undecided(f"{word[:20]} is a free variable")
        self.letters.add(word)
        return True


def currency(sign: str) -> str:
    return sign.lstrip("\\")


def literal(word: str) -> tuple[Number, int]:
    """The value of a number as spelled, and its decimals."""
    digits = word.replace("{,}", "").replace("\\,", "").replace(",", "")
    if digits[0] == "0" and digits[1:2].isdigit():
        raise Undecided("a number begins with a zero, like a time of day")
    if digits.isdigit() and len(digits) <= DIGITS:
        return int(digits), 0
    mantissa, _, exponent = digits.lower().partition("e")
    if len(mantissa) > DIGITS:
        raise Undecided("a number has too many digits")
    if len(exponent) > 5 or abs(int(exponent or 0)) > EXPONENT:
        raise Undecided(exact.TOO_LARGE)
    whole, _, decimals = mantissa.partition(".")
    places = len(decimals) - int(exponent or 0)
    value = Fraction(int(whole + decimals), 1) * Fraction(10) ** -places
    return (value.numerator if value.denominator == 1 else value), places


def leading(tokens: Tokens, i: int, known: Known) -> bool:
    """Whether an operand begins here."""
    kinds, limit = tokens.kinds, i + DEPTH
    while i < limit:
        kind = kinds[i]
        if kind in ("n", "c"):
            return True
        if kind == "w":
            word = tokens.words[i]
            return word in known or word == "pi" or (word == "sqrt" and tokens.words[i + 1] == "(")
        if kind not in ("(", "-", "+", "$"):
            return False
        i += 1
    return False


def crossed(tokens: Tokens, i: int) -> bool:
    """Whether an x between two operands is a sign of multiplication: `3 x 4`, `3x4`, not `3x(4 + y)`."""
    if tokens.spaced[i] and tokens.spaced[i + 1]:
        return True
    return tokens.kinds[i + 1] == "n" and tokens.spaced[i] == tokens.spaced[i + 1]


def remark(tokens: Tokens, i: int) -> bool:
    """Whether brackets enclose a few words only."""
    close = tokens.partner.get(i)
    return close is not None and close - i <= 5 and set(tokens.kinds[i + 1 : close]) == {"w"}


def addable(a: set[str], b: set[str]) -> bool:
    """Whether terms in these units can be added without a conversion; $5 + 3 can."""
    if ("%" in a) != ("%" in b):
        return False
    measures, others = a & MEASURED, b & MEASURED
    if measures != others:
        money = measures ^ others == {"$"} and (a <= MEASURED) == (b <= MEASURED)
        if not money or (measures and others):
            return False
    left, right = a - {"$", "%"}, b - {"$", "%"}
    return not left or not right or not left.isdisjoint(right)
