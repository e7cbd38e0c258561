"""What stands around an equality and may belong to it, deny it, or change its values."""

from __future__ import annotations

from service.answers.equations import numbers
from service.answers.equations.expressions import Known, Reading, read
from service.answers.equations.finding import Left
from service.answers.equations.numbers import Undecided
from service.answers.equations.tokens import Tokens
from service.answers.equations.words import (
    ALTERNATIVES,
    ARTICLES,
    CIRCUMSTANCES,
    DENYING,
    FILLERS,
    PREPOSITIONS,
    STARTERS,
    STATISTICS,
    SUPPOSING,
    TOTALS,
)

MORE = "what follows it may belong to it"
GOES_ON = "it goes on with what is not arithmetic"


def doubtful_end(tokens: Tokens, known: Known, end: int) -> str | None:
    """What behind the right side puts it in doubt; raise Undecided where that is certainly part of it."""
    kind, after = tokens.kinds[end], tokens.kinds[end + 1 : end + 2]
    if (
        kind in ("+", "-", "*", "/", "^", "c", "%", "…")
        or tokens.ratio(end)
        or (kind == "(" and not tokens.spaced[end])
    ):
        raise Undecided(GOES_ON)
    if tokens.words[end] == "." and after in (["w"], ["("]) and tokens.tight(end, end + 2):
        raise Undecided("its decimals cannot be read")  # 0.\overline{3}
    if kind == "," and after == ["n"] and len(tokens.words[end + 1]) == 3:
        return "a comma can be read in two ways"
    return MORE if may_go_on(tokens, known, end) else None


def may_go_on(tokens: Tokens, known: Known, end: int) -> bool:
    """Whether what follows may be a part of the right side."""
    kind = tokens.kinds[end]
    if kind == "n":
        return tokens.words[end - 1] not in CIRCUMSTANCES
    if kind == "(":
        return tokens.kinds[end + 1] != "w" or "mod" in tokens.words[end + 1 : tokens.partner[end]]
    if kind == "w" and tokens.words[end] in ALTERNATIVES:
        return has_quantity(tokens, known, end + 1)
    return kind in ("?", "$", "!")


def has_quantity(tokens: Tokens, known: Known, start: int) -> bool:
    """Whether a quantity begins here, "8 cents" or "a half", and no other equality, "7 - 2 = 5"."""
    if tokens.kinds[start] not in ("n", "$", "c") and tokens.words[start] not in ARTICLES:
        return False
    try:
        return tokens.kinds[read(tokens, known, start).end] != "="
    except Undecided:
        return True


def doubtful_place(tokens: Tokens, left: Left, sign: int) -> str | None:
    """What stands before an equality, and around it in its sentence, that puts it in doubt."""
    start, word = left.reading.start, tokens.name(left.reading.start - 1)
    if left.crowded and word in PREPOSITIONS and not (word == "of" and tokens.name(start - 2) in TOTALS):
        return f"what stands before “{word}” may belong to it"
    if depends(tokens, start) in STATISTICS:
        return "it may be of several numbers"
    if is_range(tokens, left.reading):
        return "it may be a range"
    if word in SUPPOSING:
        return "it is supposed, not asserted"
    if word and word not in STARTERS and tokens.partner.get(start, -2) + 1 == left.reading.end:
        return "it is a remark in brackets"
    return "it may be denied, or asked" if DENYING.search(tokens.sentence(sign)) else None


def depends(tokens: Tokens, i: int) -> str:
    """The word before an expression that may change its value, without articles; empty where there is none."""
    i -= 1
    while tokens.name(i) in FILLERS:
        i -= 1
    return tokens.name(i).lstrip("\\")


def is_range(tokens: Tokens, reading: Reading) -> bool:
    """Whether a difference looks like a range instead, as in `pages 3-5 = 3 pages`."""
    minus = reading.start + 1
    tight = reading.operators == "-" and tokens.kinds[minus] == "-" and tokens.tight(minus, minus + 2)
    return tight and numbers.ends(reading.value)[0] <= 0
