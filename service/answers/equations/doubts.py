"""Why sides that are unequal as read may be equal as meant: their units, rounding, what their names stand for.

Each function returns the reason, or None where there is no doubt.
"""

from __future__ import annotations

import re

from service.answers.equations import numbers
from service.answers.equations.definitions import Definitions
from service.answers.equations.expressions import Known, Reading
from service.answers.equations.finding import Left
from service.answers.equations.rounding import cut_off, difference, fractional, near, rounded, rounds
from service.answers.equations.tokens import Tokens
from service.answers.equations.units import unit
from service.answers.equations.words import SCALES

LABEL = "it says what a quantity or a label stands for"


def doubtful_letters(left: Reading, right: Reading) -> str | None:
    """Units of one letter, which may be variables."""
    letters = left.letters | right.letters
    if not letters or not (left.mixed or left.words != right.words):
        return None
    others = (left.measures | right.measures) - set(map(unit, letters)) - {"$"}
    return f"{min(letters)} may be a variable" if left.mixed or not others else None


def doubtful_units(left: Left, right: Reading) -> str | None:
    """Numbers that differ may be the same quantity, or different ones."""
    reading = left.reading
    if convertible(reading, right):
        return "units may be converted"
    labelled = right.words - reading.words or "%" in reading.words or (right.words and not left.chained)
    if labelled and not reading.operators:
        return LABEL
    if why := doubtful_percent(reading, right):
        return why
    part = reading.operators == "/" and 0 < numbers.ends(reading.value)[0] < 1 <= numbers.ends(right.value)[0]
    return "it says what a part stands for" if part and not left.chained else None


def convertible(left: Reading, right: Reading) -> bool:
    """Whether the sides are in different units."""
    if left.mixed or right.mixed:
        return True
    if (left.words | right.words) & SCALES and left.words != right.words:
        return True
    if left.content and right.content and left.content.isdisjoint(right.content):
        return True
    if right.measures - left.measures and (left.measures or left.content):
        return True
    return bool(left.measures - {"$"}) and not right.words


POWERS = frozenset({"squared", "cubed", "square", "cube"})
EXPONENT, TIMES = re.compile(r"\^ ?\d+ ?/"), re.compile(r"\d ?x ?[\d(]")
"""A fraction as an exponent without brackets; an x between numbers, which may be a sign where it is a name, too."""


def doubtful_spelling(tokens: Tokens, left: Left, right: Reading, known: Known) -> str | None:
    """What is written may be meant otherwise than it is read."""
    reading = left.reading
    written = tokens.slice(reading.start, right.end)
    if (reading.words | right.words) & POWERS:
        return "a power may be spelled out"
    if EXPONENT.search(written) or ("x" in known and TIMES.search(written)):
        return "it may be read in two ways"
    ours, theirs = ("\\pi" in tokens.words[side.start : side.end] for side in (reading, right))
    if ours != theirs:
        return "π may be rounded"
    before = tokens.kinds[reading.start - 1] if reading.start else ""
    if before in ("+", "-", "*", "/") and not reading.operators:
        return "it may go on with the line before"
    return "a decimal goes on" if reading.cut else None


def doubtful_percent(left: Reading, right: Reading) -> str | None:
    ours, theirs = (100 if "%" in side.words else 1 for side in (left, right))
    if ours != theirs and near(numbers.multiply(left.value, ours), numbers.multiply(right.value, theirs)):
        return "a percent sign may be left out"
    if "%" in right.words and rounds(right, left.value, integers=True):
        return "a percentage may be rounded"
    return None


def doubtful_rounding(left: Left, right: Reading, definitions: Definitions, announced: bool) -> str | None:
    """Rounding, on the way or as the step announces, may be all the difference."""
    reading, value = left.reading, left.reading.value
    if right.operators and numbers.same(value, right.first):
        return "the result is computed with further"
    if right.places is not None and set("*/^r") & set(reading.operators) and cut_off(value, right.value, right.places):
        return "a decimal is cut off"
    if reading.places and rounded(right.value, value, reading.places):
        return "the left side is rounded"
    if near(value, right.value):
        if right.decimals and right.operators:
            definitions.rounded.update(right.decimals)
            return "it may be rounded on the way"
        if not definitions.rounded.isdisjoint(reading.decimals):
            return "it is computed from a rounded number"
    close = near(value, right.value) or difference(value, right.value) < 1
    return "it may be rounded" if announced and close and fractional(value) else None


def doubtful_names(left: Reading, right: Reading, definitions: Definitions, words: list[str]) -> str | None:
    """Names may stand for something else. `words` are those of the equality."""
    if left.weak or right.weak:
        return "it depends on what a name stands for"
    names = definitions.many_valued and any(word in definitions.known for word in words)
    return "a variable may have several values" if names else None
