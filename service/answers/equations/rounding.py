"""Whether two values differ by no more than rounding may have made.

A decimal that is stated as the result may be rounded: `10 / 3 = 3.33` holds when the exact value is within half a unit
of its last digit, or, where the exact value has no end, when it is cut off (`2 / 3 = 0.66`). An integer is exact, as is
a decimal on the left.
"""

from __future__ import annotations

from fractions import Fraction

from service.answers.equations import numbers
from service.answers.equations.expressions import Reading
from service.answers.equations.numbers import Enclosure, Number

NEAR = Fraction(1, 50)  # relative: a difference that rounding on the way may have made


def states(right: Reading, value: Number) -> bool:
    """Whether a right side is the value as stated: rounded, cut off, or in percent without the sign on the left."""
    if rounds(right, value):
        return True
    if "%" not in right.words or right.places is None:
        return False
    percent = numbers.multiply(right.value, 100)  # 5 / 20 * 100 = 25%
    return numbers.magnitude(value) > 1 and (numbers.same(value, percent) or rounded(value, percent, right.places))


def rounds(right: Reading, value: Number, integers: bool = False) -> bool:
    """Whether a right side is a decimal, or on request an integer, that is the value rounded, or cut off where the
    value has no end."""
    if right.places is None or (right.places <= 0 and not integers):
        return False
    places = right.places + (2 if "%" in right.words else 0)
    if rounded(value, right.value, places):
        return True
    return (right.cut or endless(value)) and cut_off(value, right.value, places)


def endless(value: Number) -> bool:
    """Whether the decimals go on for ever."""
    if isinstance(value, Enclosure):
        return True
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1


def rounded(value: Number, shown: Number, places: int) -> bool:
    """Whether a value was rounded to what is shown with so many decimals: half up, or half to even."""
    if isinstance(shown, Enclosure) or places <= 0:
        return False
    stated, half = Fraction(shown), Fraction(1, 2 * 10**places)
    away = max(abs(end - stated) for end in numbers.ends(value))
    even = stated * 10**places % 2 == 0
    return away < half or (away == half and (even or numbers.magnitude(value) < abs(stated)))


def cut_off(value: Number, shown: Number, places: int) -> bool:
    """Whether a value was cut off behind so many decimals."""
    if isinstance(shown, Enclosure) or places <= 0:
        return False
    stated, one = Fraction(shown), Fraction(1, 10**places)
    return all(end * stated >= 0 and 0 <= abs(end) - abs(stated) < one for end in numbers.ends(value))


def difference(a: Number, b: Number) -> Fraction:
    return abs(numbers.ends(a)[0] - numbers.ends(b)[0])


def near(a: Number, b: Number) -> bool:
    return difference(a, b) <= NEAR * numbers.magnitude(a)


def fractional(value: Number) -> bool:
    return isinstance(value, Enclosure) or value.denominator > 1
