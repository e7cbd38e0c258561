"""Exact arithmetic with bounds: rational numbers as they are, irrational ones as enclosures.

An enclosure is two rational numbers that the true value lies between (interval arithmetic, Moore 1966), so that two
values whose enclosures do not meet certainly differ. Every operation looks at the size of its result before or right
after it is computed, and none recurses: the work of one operation is bounded whatever the text says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, isqrt

BITS = 4096
"""Of a numerator or a denominator: some 1,200 digits."""
PRECISION = 256  # bits behind the point of an enclosure's ends
CERTAIN = Fraction(1, 2**160)
"""Enclosures that meet and are narrower than this, relative to their values, are of the same number."""
MOST_FACTORIAL, MOST_ROOT = 300, 12
DIGITS = 100  # of one number as written
EXPONENT = 300  # of a number in scientific notation


class Undecided(Exception):
    """There is no opinion; the message says why, and is shown to users."""


TOO_LARGE = "a number is too large"


@dataclass(frozen=True, slots=True)
class Enclosure:
    """An irrational number, which lies between two rational ones."""

    low: Fraction
    high: Fraction


Rational = int | Fraction
Number = int | Fraction | Enclosure


def outward(low: Rational, high: Rational) -> Enclosure:
    """The enclosure with its ends rounded outward, so that they do not grow."""
    scale = 1 << PRECISION
    down, up = low.numerator * scale // low.denominator, -(-high.numerator * scale // high.denominator)
    return Enclosure(Fraction(down, scale), Fraction(up, scale))


PI_DIGITS = (
    "314159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651"
)
PI = Enclosure(*(Fraction(int(PI_DIGITS) + more, 10 ** (len(PI_DIGITS) - 1)) for more in (0, 1)))


def bounded(value: Rational) -> Rational:
    """The value; raise Undecided where it has too many digits."""
    if value.numerator.bit_length() > BITS or value.denominator.bit_length() > BITS:
        raise Undecided(TOO_LARGE)
    return value


def ends(value: Number) -> tuple[Fraction, Fraction]:
    """What the value lies between."""
    return (value.low, value.high) if isinstance(value, Enclosure) else (Fraction(value), Fraction(value))


def magnitude(value: Number) -> Fraction:
    """How far the value is from zero, at least."""
    return min(map(abs, ends(value)))


def combine(operation: Callable[[Rational, Rational], Rational], a: Number, b: Number) -> Number:
    """Apply an operation that is monotonic in either of its operands."""
    if not isinstance(a, Enclosure) and not isinstance(b, Enclosure):
        return bounded(operation(a, b))
    corners = [bounded(operation(x, y)) for x in ends(a) for y in ends(b)]
    return outward(min(corners), max(corners))


def add(a: Number, b: Number) -> Number:
    return combine(lambda x, y: x + y, a, b)


def subtract(a: Number, b: Number) -> Number:
    return combine(lambda x, y: x - y, a, b)


def multiply(a: Number, b: Number) -> Number:
    return combine(lambda x, y: x * y, a, b)


def divide(a: Number, b: Number) -> Number:
    """Raise Undecided where the divisor is zero, or may be."""
    low, high = ends(b)
    if low <= 0 <= high:
        raise Undecided("it divides by zero")
    return combine(quotient, a, b)


def whole_if_so(value: Fraction) -> Rational:
    return value.numerator if value.denominator == 1 else value


def quotient(a: Rational, b: Rational) -> Rational:
    return whole_if_so(Fraction(a) / b)


def negate(value: Number) -> Number:
    return Enclosure(-value.high, -value.low) if isinstance(value, Enclosure) else -value


def power(base: Number, exponent: Number) -> Number:
    """A power with a rational exponent."""
    if isinstance(exponent, Enclosure):
        raise Undecided("an exponent is irrational")
    if exponent.denominator > 1:
        return root(power(base, exponent.numerator), exponent.denominator)
    if base in (1, -1):
        return base if exponent % 2 else 1
    return integer_power(base, exponent.numerator)


def integer_power(base: Number, exponent: int) -> Number:
    """The size of the result is known before it is computed."""
    low, high = ends(base)
    if exponent <= 0 and low <= 0 <= high:
        raise Undecided("zero to the power of zero or less is not defined")
    size = max(max(end.numerator.bit_length(), end.denominator.bit_length()) for end in (low, high))
    if abs(exponent) * size > BITS and base != 0:
        raise Undecided(TOO_LARGE)
    if isinstance(base, Enclosure):
        return enclosed_power(base, exponent)
    return base**exponent if exponent >= 0 else quotient(1, base**-exponent)


def enclosed_power(base: Enclosure, exponent: int) -> Number:
    """By repeated multiplication: a power of an enclosure has too many bits for more than a few."""
    result: Number = 1
    for _ in range(abs(exponent)):
        result = multiply(result, base)
    return result if exponent >= 0 else divide(1, result)


def root(value: Number, degree: int) -> Number:
    """The real root: exact where it is rational."""
    low, high = ends(value)
    if not 1 <= degree <= MOST_ROOT:
        raise Undecided("a root of this degree is not computed")
    if low < 0:
        if degree % 2 and high <= 0:
            return negate(root(negate(value), degree))
        raise Undecided("a root of a negative number is not real")
    if not isinstance(value, Enclosure):
        over, under = integer_root(value.numerator, degree), integer_root(value.denominator, degree)
        if over**degree == value.numerator and under**degree == value.denominator:
            return quotient(over, under)
    return outward(root_below(low, degree), root_below(high, degree) + Fraction(1, 1 << PRECISION))


def root_below(value: Rational, degree: int) -> Fraction:
    """The root rounded down to the precision of an enclosure."""
    scaled = (value.numerator << (PRECISION * degree)) // value.denominator
    return Fraction(integer_root(scaled, degree), 1 << PRECISION)


def integer_root(value: int, degree: int) -> int:
    """The largest integer whose power is not above the value, by Newton's method."""
    if degree == 2 or value == 0:
        return isqrt(value)
    guess = 1 << -(-value.bit_length() // degree)
    while True:
        better = ((degree - 1) * guess + value // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better


def factorial_of(value: Number) -> Number:
    """Raise Undecided but for a small natural number."""
    if not isinstance(value, int) or not 0 <= value <= MOST_FACTORIAL:
        raise Undecided("a factorial is of no small integer")
    return factorial(value)


def same(a: Number, b: Number) -> bool:
    """Whether two values are equal; raise Undecided where their enclosures are too wide to tell."""
    if not isinstance(a, Enclosure) and not isinstance(b, Enclosure):
        return a == b
    (low, high), (below, above) = ends(a), ends(b)
    if high < below or above < low:
        return False
    scale = max(abs(low), abs(above), Fraction(1))
    if high - low > CERTAIN * scale or above - below > CERTAIN * scale:
        raise Undecided("a number is not known well enough")
    return True


def literal(word: str) -> tuple[Number, int]:
    """The value of a number as spelled, and its decimals: 12e3 has -3."""
    digits = word.replace("{,}", "").replace("\\,", "").replace(",", "").lower()
    mantissa, _, exponent = digits.partition("e")
    whole, _, decimals = mantissa.partition(".")
    if whole[:1] == "0" and len(whole) > 1:
        raise Undecided("a number begins with a zero, like a time of day")
    if len(mantissa) > DIGITS:
        raise Undecided("a number has too many digits")
    if len(exponent) > 5 or abs(int(exponent or 0)) > EXPONENT:
        raise Undecided(TOO_LARGE)
    places = len(decimals) - int(exponent or 0)
    return whole_if_so(int(whole + decimals) * Fraction(10) ** -places), places
