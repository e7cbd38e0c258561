r"""The lists of words, and what each tells. In patterns, `\w*` stands for any ending."""

from __future__ import annotations

import re


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPOKEN_SIGNS = {"percent": "%", "equals": "="}
"""Always the sign."""
SPOKEN_OPERATORS = {"times": "*", "plus": "+", "minus": "-", "multiplied": "*", "divided": "/"}
"""The operator, where an operand follows; "multiplied" and "divided" with a "by"."""

STARTERS = words_of("so then thus hence therefore and that because since but which is are get have gives")
"""An expression that follows one of these begins there: what stands before is no part of it."""
DEFINERS = STARTERS | words_of("let where with if for when try")
"""A single letter behind one of these is a name that is being defined."""
CONNECTIVES = words_of(
    "and so then thus hence therefore because since but if or when where while giving gives leaving leaves making "
    "makes make is are means meaning gets equal yields And So Then Thus Hence Therefore Because Since But If Or When "
    "While"
)
"""These end the units behind a number."""
FILLERS = words_of("of the a an that this his her their its")
"""Passed over on the way to the word that an expression depends on: `half of the 3 + 4`."""
BLOCKERS = words_of(
    "half twice thrice double doubled triple tripled quadruple third thirds quarter quarters fourth fourths fifth "
    "square squared cube root than times plus minus multiplied divided mod modulo log ln sin cos tan exp gcd lcm "
    "negative percent dozen hundred thousand million billion factorial reciprocal"
)
"""Before an expression, these change its value, or may: `half of 3 + 4`."""
STATISTICS = words_of("average mean median maximum minimum max min over")
"""Before an expression, these make another number of its terms: `the average of 3 + 5`."""
SUPPOSING = words_of("if suppose supposing assume assuming whether say unless")
"""An equality behind one of these is not asserted."""
PREPOSITIONS = words_of("at of by for each per with to from and or than in every over")
"""Behind another number, these may make it a part of the expression: `5 boxes of 3 + 4`."""
TOTALS = words_of("total sum amount cost profit totals")
"""The "of" behind one of these does not: `in 2 weeks a total of 3 + 4`."""
ALTERNATIVES = words_of("and or to with plus minus remainder r")
"""Between the right side and another number, these may make both one quantity: `7 dollars and 8 cents`."""
CIRCUMSTANCES = words_of("in per on at for every after over during each")
"""Between the right side and another number, these keep the two apart: `12 apples in 3 boxes`."""
ARTICLES = words_of("a one half")
"""Also numbers, behind one of the ALTERNATIVES."""

STOP_WORDS = words_of(
    "of the a an per each in for to from on at every total more left altogether remaining his her their its my our "
    "another other extra additional all both with by into out square cubic only just than less fewer as many much "
    "A I these those there st nd rd th ths"
)
"""Behind a number, these do not say what it is in."""
ORDINALS = words_of("st nd rd th ths")
"""Joined to a number, these make it a place in an order."""
SCALES = words_of(
    "k thousand million billion trillion hundred dozen pair couple score gross half halve third quarter fourth fifth "
    "sixth seventh eighth ninth tenth hundredth thousandth lakh crore bn mm percentage point time twice "
    "one two three four five six seven eight nine ten eleven twelve twenty"
)
"""Units that multiply, or may."""

DENYING = re.compile(
    r"\b(?:not|isn't|doesn't|don't|didn't|can't|cannot|never|wrong|incorrect|false|mistake|error|impossible|invalid"
    r"|contradict\w*|instead of|rather than|binary|octal|hex\w*|base[- ](?:\d|two|eight))\b|\?",
    re.IGNORECASE,
)
"""A sentence with one of these may deny its equalities, ask for them, or mean numbers that are not decimal."""
ROUNDING = re.compile(
    r"(?<![\\\w])(?:round\w*|approx\w*|about|nearest|nearly|almost|roughly|estimat\w*|around|remain\w*|left|leftover"
    r"|whole|full|fully|complete\w*|entire|at least|at most|integer|floor|ceil\w*|up to|decimal\w*|maximum|minimum"
    r"|truncat\w*)\b|[~≈⌊⌈]|\\approx|\\l?floor|\\l?ceil",
    re.IGNORECASE,
)
"""A step with one of these speaks of rounding, or of what remains."""
SCOPE = re.compile(
    r"\b(?:let|case|cases|suppose|assum\w+|if|try|trial|when|wait|actually|instead|part|either|or|new|now|next|correct\w*"
    r"|mistake|option|options|method|alternative\w*|similarly|second|another|again|check\w*)\b",
    re.IGNORECASE,
)
"""In a step with one of these, a name may come to stand for something else."""
MANY_VALUED = re.compile(
    r"\^|\*\*|[²³|±√]|\\pm|\\sqrt|sqrt|\babs\b|\bmod\b|\broots?\b|\bsolutions\b|\bvalues\b", re.IGNORECASE
)
"""In a solution with one of these, a name may have several values."""
