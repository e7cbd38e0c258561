"""What numbers are in: `3 boxes`, `$5/card`, `8 square feet`."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from functools import lru_cache

from service.answers.equations.numbers import Undecided
from service.answers.equations.tokens import Tokens
from service.answers.equations.words import CONNECTIVES, ORDINALS, SPOKEN_OPERATORS, STOP_WORDS

UNIT_WORDS = 12  # behind one operand

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
LETTERS = frozenset("mgshlL")  # units, unless they are variables
MEASURED = frozenset(MEASURES.values()) | frozenset("£€¥₹")


@lru_cache(maxsize=4096)
def unit(word: str) -> str:
    """One name for the spellings of a unit; of others, without their s."""
    if canonical := MEASURES.get(word) or MEASURES.get(word.lower()):
        return canonical
    word = word.lower().removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def addable(a: set[str], b: set[str]) -> bool:
    """Whether terms in these units can be added without a conversion; $5 + 3 can."""
    if ("%" in a) != ("%" in b):
        return False
    measures, others = a & MEASURED, b & MEASURED
    money = measures ^ others == {"$"} and not (measures and others) and (a <= MEASURED) == (b <= MEASURED)
    if measures != others and not money:
        return False
    left, right = a - {"$", "%"}, b - {"$", "%"}
    return not left or not right or not left.isdisjoint(right)


@dataclass(slots=True)
class Units:
    """The words behind an operand: steps over them, and keeps those that say what it is in."""

    tokens: Tokens
    names: Container[str]  # the known variables
    i: int
    of: bool  # whether an "of" multiplies here
    money: bool  # whether the operand has a currency
    words: set[str] = field(default_factory=set)
    letters: set[str] = field(default_factory=set)
    shaky: str | None = None

    def read(self) -> None:
        start = self.i
        while self.i - start < UNIT_WORDS and (self.word() or self.slash(start) or self.remark()):
            pass

    def add(self, word: str) -> None:
        if word not in STOP_WORDS:
            self.words.add(unit(word))

    def word(self) -> bool:
        if self.tokens.kinds[self.i] != "w" or not self.is_unit():
            return False
        self.add(self.tokens.words[self.i])
        self.i += 1
        self.exponent()
        return True

    def exponent(self) -> None:
        """The 2 of cm^2 or of cm^{2}."""
        tokens, i = self.tokens, self.i
        if tokens.kinds[i] != "^" or tokens.words[i - 1] not in MEASURES:
            return
        if tokens.kinds[i + 1] == "n":
            self.i += 2
        elif tokens.kinds[i + 1] == "(" and tokens.kinds[i + 2] == "n":
            self.i = tokens.partner[i + 1] + 1

    def slash(self, start: int) -> bool:
        """A slash before a word that is a unit, as in $5/card, rather than the divisor."""
        tokens, i = self.tokens, self.i
        if tokens.kinds[i : i + 2] != ["/", "w"] or tokens.spaced[i + 1]:
            return False
        word = tokens.words[i + 1]
        if word in self.names or (len(word) == 1 and word not in LETTERS):
            return False
        if i == start and not self.money:
            self.shaky = f"it is not known what /{word[:20]} means"
        self.i += 1
        return True

    def remark(self) -> bool:
        """A few words in brackets."""
        tokens, i = self.tokens, self.i
        if tokens.kinds[i] != "(" or not tokens.spaced[i] or not tokens.remarks(i):
            return False
        for word in tokens.words[i + 1 : tokens.partner[i]]:
            self.add(word)
        self.i = tokens.partner[i] + 1
        return True

    def is_unit(self) -> bool:
        """Whether a word belongs to what stands before it; raise Undecided for what looks like a variable."""
        tokens, i, word = self.tokens, self.i, self.tokens.words[self.i]
        if word in CONNECTIVES or word in self.names or word == "pi" or self.is_operator(word):
            return False
        if word in SPOKEN_OPERATORS or word == "of":
            return True
        if len(word) == 1 or not word.isalpha():
            return self.is_letter(word)
        if tokens.spaced[i]:
            return True
        if word in ORDINALS:
            self.shaky = "it is an ordinal"
        elif len(word) <= 3 and word not in MEASURES and tokens.kinds[i - 1] != "/":
            raise Undecided(f"{word} is not known")
        return True

    def is_operator(self, word: str) -> bool:
        """Whether an operand follows a word that computes with it."""
        width = 2 if word in ("multiplied", "divided") else 1
        spoken = word in SPOKEN_OPERATORS or (word == "of" and self.of)
        return spoken and self.tokens.leads(self.i + width, self.names)

    def is_letter(self, word: str) -> bool:
        """Whether a letter, or a word with other signs in it, is a unit."""
        tokens, i = self.tokens, self.i
        if tokens.crosses(i) and tokens.leads(i + 1, self.names):
            return False
        if word in ("a", "A", "I") and tokens.spaced[i] and tokens.kinds[i + 1] == "w":
            return True
        if "-" in word or "'" in word or (len(word) > 2 and word[:2].isalpha()):
            return "_" not in word
        if self.is_label(word):
            self.shaky = self.shaky or f"{word} may be a variable"
            return True
        if word not in LETTERS:
            raise Undecided(f"{word[:20]} is a free variable")
        self.letters.add(word)
        return True

    def is_label(self, word: str) -> bool:
        """Whether a capital may be a name: from bucket B."""
        behind = self.tokens.words[self.i - 1]
        return word.isupper() and word.isalpha() and self.tokens.spaced[self.i] and len(behind) > 2 and behind.isalpha()
