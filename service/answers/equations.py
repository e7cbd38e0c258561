"""Does every equality that a step of a solution asserts hold? Exact arithmetic on what can be read with certainty.

A wrong "false" throws a right answer away, so that it is given only where the equality can be read in one way: what
defines (`x = 5`, `1 hour = 60 minutes`), estimates (`≈`), depends on what is unknown (`2x + 3 = 7`) or may convert
units is no opinion. That two sides are equal is hardly a coincidence, and confirms a reading that was in doubt.

A decimal that is stated as the result may be rounded: `10 / 3 = 3.33` holds when the exact value is within half a unit
of its last digit, or, where the exact value has no end, when it is cut off (`2 / 3 = 0.66`). An integer is exact, as is
a decimal on the left. Runs in a process that can be killed, though all of it is bounded and none of it runs text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from service.answers import exact
from service.answers.exact import Enclosure, Number, Undecided
from service.answers.expressions import MEASURED, SCALES, Parser, Reading, Variable, leading, unit, words_of
from service.answers.mathtext import Tokens, simplify, tokenize

STEP_CHARACTERS = 20_000
SOLUTION_CHARACTERS = 200_000
STEP_EQUATIONS, SOLUTION_EQUATIONS = 200, 2_000
SHOWN = 80  # characters of an equation that is false
SENTENCE = 100  # tokens before and behind a sign of equality in which it may be denied
NEAR = Fraction(1, 50)  # relative: a difference that rounding on the way may have made

RELEVANT = re.compile(r"[=＝~≈]|\\approx|\bequals\b")
ANNOTATION = re.compile(r"<<([^<>\n]*)>>")  # of GSM8K's calculator: 3 + 4 = <<3+4=7>>7
STARTERS = words_of("so then thus hence therefore and that because since but which is are get have gives")
DEFINERS = STARTERS | words_of("let where with if for when try")
BLOCKERS = words_of(
    "half twice thrice double doubled triple tripled quadruple third thirds quarter quarters fourth fourths fifth "
    "square squared cube root than times plus minus multiplied divided mod modulo log ln sin cos tan exp gcd lcm "
    "negative percent dozen hundred thousand million billion factorial reciprocal"
)
"""Words in front of an expression that change its value: `half of 3 + 4`."""
FILLERS = words_of("of the a an that this his her their its")
SUPPOSING = words_of("if suppose supposing assume assuming whether say unless")
PREPOSITIONS = words_of("at of by for each per with to from and or than in every over")
TOTALS = words_of("total sum amount cost profit totals")
STATISTICS = words_of("average mean median maximum minimum max min over")
ALTERNATIVES = words_of("and or to with plus minus remainder r")
DENYING = re.compile(
    r"\b(?:not|isn't|doesn't|don't|didn't|can't|cannot|never|wrong|incorrect|false|mistake|error|impossible|invalid"
    r"|contradict\w*|instead of|rather than|binary|octal|hex\w*|base[- ](?:\d|two|eight))\b|\?",
    re.IGNORECASE,
)
ROUNDING = re.compile(
    r"(?<![\\\w])(?:round\w*|approx\w*|about|nearest|nearly|almost|roughly|estimat\w*|around|remain\w*|left|leftover|whole|full"
    r"|fully|complete\w*|entire|at least|at most|integer|floor|ceil\w*|up to|decimal\w*|maximum|minimum|truncat\w*)\b"
    r"|[~≈⌊⌈]|\\approx|\\l?floor|\\l?ceil",
    re.IGNORECASE,
)
SCOPE = re.compile(
    r"\b(?:let|case|cases|suppose|assum\w+|if|try|trial|when|wait|actually|instead|part|either|or|new|now|next|correct\w*"
    r"|mistake|option|options|method|alternative\w*|similarly|second|another|again|check\w*)\b",
    re.IGNORECASE,
)
"""Words of a step in which a name may come to stand for something else."""
MANY_VALUED = re.compile(
    r"\^|\*\*|[²³|±√]|\\pm|\\sqrt|sqrt|\babs\b|\bmod\b|\broots?\b|\bsolutions\b|\bvalues\b", re.IGNORECASE
)
"""What a solution has in it where a variable may have several values."""


@dataclass(frozen=True, slots=True)
class StepCheck:
    """What checking one step says.

    `holds`: whether all equalities hold that can be checked; None is no opinion, neither right nor wrong. `reason`: the
    equality that is false, as written and shortened; for None, why there is no opinion.
    """

    holds: bool | None
    reason: str | None = None


NOTHING = "nothing is asserted"


@dataclass(frozen=True, slots=True)
class Left:
    """What stands left of a sign of equality, and how: in a chain, at the begin of a clause, behind other numbers."""

    reading: Reading
    chained: bool = False
    clear: bool = True
    crowded: bool = False
    bullet: int | None = None


def check_solutions(solutions: Sequence[Sequence[str]]) -> list[list[StepCheck]]:
    """In a worker: `check_solution` of each."""
    return [check_solution(steps) for steps in solutions]


def check_solution(steps: Sequence[str]) -> list[StepCheck]:
    """Check the steps of one solution, in their order: a definition is known in what follows it."""
    solution = Solution(steps)
    return [solution.check_step(number, text) for number, text in enumerate(steps)]


@dataclass(slots=True)
class Solution:
    """What is known while the steps of a solution are read."""

    steps: Sequence[str]
    known: dict[str, Variable] = field(default_factory=dict)
    rounded: set[Number] = field(default_factory=set)  # values that were stated rounded
    characters: int = 0
    equations: int = 0
    firm: list[str] = field(default_factory=list)
    many: bool | None = None

    def loosen(self) -> None:
        """From here on, every name may stand for something else."""
        for name in self.firm:
            self.known[name] = self.known[name]._replace(firm=False)
        self.firm.clear()

    def check_step(self, number: int, text: str) -> StepCheck:
        if not RELEVANT.search(text):
            return StepCheck(None, NOTHING)
        self.characters += len(text)
        if len(text) > STEP_CHARACTERS or self.characters > SOLUTION_CHARACTERS:
            return StepCheck(None, "the text is too long")
        if "<<" in text:
            text = "\n".join([ANNOTATION.sub("", text), *ANNOTATION.findall(text)])
        tokens = tokenize(simplify(text))
        signs = [i for i, kind in enumerate(tokens.kinds) if kind == "="]
        self.equations += len(signs)
        if len(signs) > STEP_EQUATIONS or self.equations > SOLUTION_EQUATIONS:
            return StepCheck(None, "there are too many equations")
        return Step(self, number, text, tokens).check(signs)

    @property
    def many_valued(self) -> bool:
        """Whether a variable of this solution may have several values."""
        if self.many is None:
            self.many = any(MANY_VALUED.search(text) for text in self.steps if len(text) <= STEP_CHARACTERS)
        return self.many


@dataclass(slots=True)
class Step:
    """One step of a solution."""

    solution: Solution
    number: int
    text: str
    tokens: Tokens
    begin: int = 0  # the first token of the last equality that was checked
    roundings: bool | None = None

    def check(self, signs: Sequence[int]) -> StepCheck:
        if SCOPE.search(self.text):
            self.solution.loosen()
        if "~" in self.tokens.kinds:
            self.note_estimates()
        reasons: list[str] = []
        right: Reading | None = None
        start = 0
        for sign in signs:
            chained = right if right is not None and right.end == sign else None
            right = None
            try:
                right = self.right_of(sign)
                if not self.holds(sign, start, chained, right):
                    return StepCheck(False, self.tokens.slice(self.begin, right.end)[:SHOWN])
            except Undecided as undecided:
                reasons.append(str(undecided))
            start = right.end if right else sign + 1
        if len(reasons) < len(signs):
            return StepCheck(True)
        return StepCheck(None, reasons[0] if reasons else NOTHING)

    @property
    def rounds(self) -> bool:
        """Whether the step speaks of rounding, or of what remains."""
        if self.roundings is None:
            self.roundings = ROUNDING.search(self.text) is not None
        return self.roundings

    def note_estimates(self) -> None:
        """Remember what was stated as approximate."""
        for kind, i in zip(self.tokens.kinds, range(len(self.tokens.kinds) - 1), strict=False):
            if kind == "~" and leading(self.tokens, i + 1, self.solution.known):
                try:
                    self.solution.rounded.add(Parser(self.tokens, self.solution.known, i + 1).read().value)
                except Undecided:
                    continue

    def right_of(self, sign: int) -> Reading:
        if not leading(self.tokens, sign + 1, self.solution.known):
            raise Undecided("what is right of = is not arithmetic")
        return Parser(self.tokens, self.solution.known, sign + 1).read()

    def holds(self, sign: int, start: int, chained: Reading | None, right: Reading) -> bool:
        """Whether one equality holds; raise Undecided for no opinion."""
        after = tail(self.tokens, right, self.solution)
        if chained is None and (name := defined(self.tokens, sign)):
            return self.define(name, sign, right, after)
        left = Left(chained, chained=True) if chained else self.left_of(sign, start)
        self.begin = left.reading.start
        refuse(self.tokens, left, right)
        if self.agrees(left, right, sign):
            return True
        if why := self.excuse(left, right, after, sign):
            raise Undecided(why)
        return False

    def define(self, name: str, sign: int, right: Reading, after: str | None) -> bool:
        """Learn the value of a name; False where it contradicts an earlier one."""
        known, self.begin = self.solution.known, sign - 1
        plain = right.places is not None and not right.shaky and after is None
        firm = (
            not right.shaky
            and after is None
            and len(name.lstrip("\\").partition("_")[0]) == 1
            and not SCOPE.search(self.text)
        )
        new = Variable(right.value, right.content, plain, firm, self.number)
        old = known.get(name)
        if old is not None and old.step == self.number and old.value != new.value:
            known[name] = new._replace(firm=False)
            raise Undecided(f"{name} has several values")
        known[name] = new
        if firm:
            self.solution.firm.append(name)
        if old is None or old.value == new.value or not (old.plain and plain and old.firm and firm):
            raise Undecided("it is a definition")
        if old.words != new.words or self.solution.many_valued or near(old.value, new.value):
            raise Undecided(f"{name} may have several values")
        return False

    def left_of(self, sign: int, start: int) -> Left:
        side_by_side = start > 0 and self.tokens.kinds[start] == "n" and self.tokens.kinds[start - 1] != "="
        trouble = "numbers stand side by side" if side_by_side else None
        return Scan(self.tokens, self.solution.known, start, sign, trouble, clear=not start).run()

    def agrees(self, left: Left, right: Reading, sign: int) -> bool:
        """Whether both sides have the same value, as stated."""
        value = left.reading.value
        if exact.same(value, right.value):
            return True
        if self.agrees_as_stated(value, right, left.reading.operators):
            self.solution.rounded.add(right.value)
            return True
        if left.bullet is not None:  # it may have been a minus
            other = Parser(self.tokens, self.solution.known, left.bullet).read()
            return other.end == sign and exact.same(other.value, right.value)
        return False

    def agrees_as_stated(self, value: Number, right: Reading, operators: str) -> bool:
        if stated(value, right):
            return True
        if "%" not in right.words or right.places is None:
            return False
        percent = exact.multiply(right.value, 100)  # 5 / 20 * 100 = 25%
        return exact.magnitude(value) > 1 and (exact.same(value, percent) or within(value, percent, right.places))

    def excuse(self, left: Left, right: Reading, after: str | None, sign: int) -> str | None:
        """Why sides that are unequal as read may be equal as meant."""
        reading = left.reading
        return (
            reading.shaky
            or right.shaky
            or after
            or doubtful_units(left, right)
            or self.doubtful_place(left, sign)
            or self.doubtful_rounding(left, right)
            or self.doubtful_variables(reading, right)
        )

    def doubtful_place(self, left: Left, sign: int) -> str | None:
        """What stands before the equality, and around it in its sentence."""
        tokens, start = self.tokens, left.reading.start
        word = tokens.words[start - 1].lower() if start and tokens.kinds[start - 1] == "w" else ""
        total = word == "of" and tokens.words[start - 2].lower() in TOTALS
        if left.crowded and word in PREPOSITIONS and not total:
            return f"what stands before “{word}” may belong to it"
        if blocker(tokens, start, STATISTICS):
            return "it may be of several numbers"
        if spans(tokens, left.reading):
            return "it may be a range"
        if word in SUPPOSING:
            return "it is supposed, not asserted"
        if word and word not in STARTERS and tokens.partner.get(start, -2) + 1 == left.reading.end:
            return "it is a remark in brackets"
        if start and tokens.kinds[start - 1] == "?":
            return "it is quoted, or follows what cannot be read"
        if DENYING.search(sentence(tokens, sign)):
            return "it may be denied, or asked"
        return None

    def doubtful_rounding(self, left: Left, right: Reading) -> str | None:
        """Whether rounding, on the way or as announced, may be all the difference."""
        reading, value = left.reading, left.reading.value
        if not left.chained and right.operators and right.first is not None and exact.same(value, right.first):
            return "the result is computed with further"
        if left.chained and right.operators and exact.same(value, right.first):
            return "the result is computed with further"
        if (
            right.places is not None
            and within(value, right.value, right.places, cut=True)
            and cuttable(reading.operators)
        ):
            return "a decimal is cut off"
        if reading.places and within(right.value, value, reading.places):
            return "the left side is rounded"
        if near(value, right.value):
            if right.decimals and right.operators:
                self.solution.rounded.update(right.decimals)
                return "it may be rounded on the way"
            if not self.solution.rounded.isdisjoint(reading.decimals):
                return "it is computed from a rounded number"
        close = near(value, right.value) or abs(difference(value, right.value)) < 1
        return "it may be rounded" if close and fractional(value) and self.rounds else None

    def doubtful_variables(self, left: Reading, right: Reading) -> str | None:
        if left.weak or right.weak:
            return "it depends on what a name stands for"
        names = any(word in self.solution.known for word in self.tokens.words[left.start : right.end])
        return "a variable may have several values" if names and self.solution.many_valued else None


@dataclass(slots=True)
class Scan:
    """Finds the expression that ends at a sign of equality, going through the clause before it once."""

    tokens: Tokens
    known: dict[str, Variable]
    i: int
    sign: int
    trouble: str | None = None  # something in this clause cannot be read
    dangling: bool = False  # an operator in this sentence has an operand that cannot be read
    crowded: bool = False
    spare: bool = False  # another expression stands in this clause
    clear: bool = True
    bullet: int | None = None
    shaky: str | None = None

    def run(self) -> Left:
        while self.i < self.sign:
            if reading := self.step():
                return self.finish(reading)
        raise Undecided(self.trouble or "what is left of = is not arithmetic")

    def finish(self, reading: Reading) -> Left:
        if self.trouble or self.dangling:
            raise Undecided(self.trouble or "it begins with what is not arithmetic")
        reading.shaky = reading.shaky or self.shaky
        if self.spare:
            reading.shaky = "another expression stands before it"
        return Left(reading, clear=self.clear, crowded=self.crowded, bullet=self.bullet)

    def step(self) -> Reading | None:
        """Go on by a token or an expression; return the expression that reaches the sign."""
        kind, i = self.tokens.kinds[self.i], self.i
        if kind in BREAKS:
            self.end_clause(kind)
        elif kind == "(" and self.tokens.partner[i] > self.sign:
            self.enter_bracket()
        elif kind in ("-", "+", "*") and self.is_bullet():
            self.bullet = i if kind == "-" else None
        elif kind == "w" and not leading(self.tokens, i, self.known):
            self.word()
        elif kind == "-" and compound(self.tokens, i):
            self.i += 1
        elif kind in ("-", "+") and not self.is_sign():
            self.dangling = True
        elif not self.trouble and leading(self.tokens, i, self.known):
            return self.parse()
        elif kind == "(":
            self.i = self.tokens.partner[i]
            self.clear = False
        elif kind in "*/^":
            self.dangling = True
        else:
            self.trouble = self.trouble or "something before it cannot be read"
        self.i += 1
        return None

    def end_clause(self, kind: str) -> None:
        self.trouble, self.spare, self.shaky = None, False, None
        if (
            kind == ":"
            and self.i
            and self.tokens.kinds[self.i - 1 : self.i + 2] == ["n", ":", "n"]
            and not self.tokens.spaced[self.i + 1]
        ):
            self.trouble = "it has a ratio"
        self.clear = kind != ":" and not (self.crowded and kind == ",")
        self.bullet = None
        if kind == ".":
            self.dangling, self.crowded, self.clear = False, False, True

    def enter_bracket(self) -> None:
        if self.i and self.tokens.kinds[self.i - 1] in ("w", "?") and not self.tokens.spaced[self.i]:
            raise Undecided("it is in a call")
        self.trouble, self.dangling, self.crowded, self.spare, self.clear = None, False, False, False, True

    def is_bullet(self) -> bool:
        begins = self.i == 0 or self.i - 1 in self.tokens.lines
        return begins and self.tokens.spaced[self.i + 1]

    def is_sign(self) -> bool:
        """Whether a minus belongs to the number behind it, rather than taking it from what stands before."""
        if self.clear or not self.i:
            return True
        if self.tokens.kinds[self.i - 1] != "w" or self.tokens.spaced[self.i + 1] or not self.tokens.spaced[self.i]:
            return False
        self.shaky = "a minus can be read in two ways"
        return True

    def word(self) -> None:
        tokens, word = self.tokens, self.tokens.words[self.i].lower()
        self.clear = word in STARTERS
        if word in STARTERS:
            self.trouble, self.spare = None, False
        behind = self.i + 1
        if tokens.kinds[behind] == "(" and not tokens.spaced[behind] and behind < self.sign:
            if tokens.partner[behind] > self.sign:
                raise Undecided("it is in a call")
            self.trouble = f"{word[:20]}(…) is not known"
            self.i = tokens.partner[behind]

    def parse(self) -> Reading | None:
        start = self.i
        try:
            reading = Parser(self.tokens, self.known, start).read()
        except Undecided as undecided:
            self.trouble = str(undecided)
            self.i = self.tokens.partner.get(start, start) + 1
            return None
        if reading.end == self.sign:
            return reading
        self.i = max(reading.end, start + 1)
        if self.tokens.kinds[self.i] == "n" and self.tokens.kinds[self.i - 1] in ("n", ")"):
            self.trouble = "numbers stand side by side"
        elif self.tokens.kinds[self.i] == "n" and unit(self.tokens.words[self.i - 1]) in MEASURED:
            self.shaky = "quantities stand side by side"  # 1 week 3 days + 2 days
        self.crowded, self.spare, self.clear = True, self.spare or bool(reading.operators), False
        return None


BREAKS = frozenset(".,:~r!")


def compound(tokens: Tokens, i: int) -> bool:
    """Whether a hyphen makes a word, as in 12-mile."""
    tight = not tokens.spaced[i] and not tokens.spaced[i + 1]
    return tight and tokens.kinds[i - 1 : i + 2] == ["n", "-", "w"] and len(tokens.words[i + 1]) > 2


def defined(tokens: Tokens, sign: int) -> str | None:
    """The name that an equality defines: a word alone at the begin of a clause."""
    i = sign - 1
    if i < 0 or tokens.kinds[i] != "w":
        return None
    before = tokens.kinds[i - 1] if i else "."
    if i in tokens.opened or before in (".", ",", ":") or (before == "(" and tokens.partner[i - 1] > sign):
        return None if before == "(" and i > 1 and not tokens.spaced[i - 1] else tokens.words[i]
    introduced = before == "w" and len(tokens.words[i]) == 1 and tokens.words[i - 1].lower() in DEFINERS
    return tokens.words[i] if introduced else None


def tail(tokens: Tokens, right: Reading, solution: Solution) -> str | None:
    """What behind the right side puts it in doubt; raise Undecided where that is part of it."""
    i, kinds, words = right.end, tokens.kinds, tokens.words
    kind = kinds[i]
    if kind in ("+", "-", "*", "/", "^", "c", "%", "…") or (
        kind == ":" and kinds[i + 1] == "n" and not tokens.spaced[i + 1]
    ):
        raise Undecided("it goes on with what is not arithmetic")
    if (
        kind == "."
        and words[i] == "."
        and kinds[i + 1] in ("w", "(")
        and not (tokens.spaced[i] or tokens.spaced[i + 1])
    ):
        raise Undecided("its decimals cannot be read")  # 0.\overline{3}
    if kind in ("?", "$", "!", "n"):
        plain = kind == "n" and words[i - 1] in (
            "in",
            "per",
            "on",
            "at",
            "for",
            "every",
            "after",
            "over",
            "during",
            "each",
        )
        return None if plain else "what follows it may belong to it"
    if kind == "(":
        if not tokens.spaced[i]:
            raise Undecided("it goes on with what is not arithmetic")
        inside = words[i + 1 : tokens.partner[i]]
        return None if kinds[i + 1] == "w" and "mod" not in inside else "what follows it may belong to it"
    if kind == "," and kinds[i + 1] == "n" and len(words[i + 1]) == 3:
        return "a comma can be read in two ways"
    if (
        kind == "w"
        and words[i] in ALTERNATIVES
        and (kinds[i + 1] in ("n", "$", "c") or words[i + 1] in ("a", "one", "half"))
    ):
        return alternative(tokens, i + 1, solution)
    return None


def alternative(tokens: Tokens, i: int, solution: Solution) -> str | None:
    """Whether an "and 8 cents" belongs to the number before it; an "and 7 - 2 = 5" does not."""
    try:
        following = Parser(tokens, solution.known, i).read()
    except Undecided:
        return "what follows it may belong to it"
    return None if tokens.kinds[following.end] == "=" else "what follows it may belong to it"


def refuse(tokens: Tokens, left: Left, right: Reading) -> None:
    """Raise Undecided for what asserts nothing that can be checked, equal or not."""
    reading = left.reading
    if not left.chained:
        if not reading.operators and (reading.words - {"%"} or not left.clear):
            raise Undecided("it says what a quantity or a label stands for")
        if word := blocker(tokens, reading.start, BLOCKERS):
            raise Undecided(f"“{word}” stands before it")
    letters = reading.letters | right.letters
    if letters and (reading.mixed or reading.words != right.words):
        named = {unit(letter) for letter in letters}
        if reading.mixed or not (reading.measures | right.measures) - named - {"$"}:
            raise Undecided(f"{min(letters)} may be a variable")


def blocker(tokens: Tokens, i: int, blockers: frozenset[str]) -> str | None:
    """The word before an expression that changes its value, if there is one."""
    i -= 1
    while i >= 0 and tokens.kinds[i] == "w" and tokens.words[i].lower() in FILLERS:
        i -= 1
    word = tokens.words[i].lower().lstrip("\\") if i >= 0 and tokens.kinds[i] == "w" else ""
    return word if word in blockers else None


def spans(tokens: Tokens, reading: Reading) -> bool:
    """Whether a difference looks like a range instead, as in `pages 3-5 = 3 pages`."""
    start = reading.start
    tight = (
        reading.operators == "-" and tokens.kinds[start + 1] == "-" and not any(tokens.spaced[start + 1 : start + 3])
    )
    return tight and exact.ends(reading.value)[0] <= 0


def doubtful_units(left: Left, right: Reading) -> str | None:
    """Why numbers that differ may be the same quantity, or different ones."""
    reading, unsure = left.reading, "units may be converted"
    if reading.mixed or right.mixed:
        return unsure
    if (reading.words | right.words) & SCALES and reading.words != right.words:
        return unsure
    if reading.content and right.content and reading.content.isdisjoint(right.content):
        return unsure
    ours, theirs = reading.measures, right.measures
    if theirs - ours and (ours or reading.content):
        return unsure
    if ours - {"$"} and not right.words:
        return unsure
    if not reading.operators and (
        right.words - reading.words or "%" in reading.words or (not left.chained and right.words)
    ):
        return "it says what a quantity or a label stands for"
    if ("%" in reading.words) != ("%" in right.words) and near(
        exact.multiply(reading.value, 100 if "%" in reading.words else 1),
        exact.multiply(right.value, 100 if "%" in right.words else 1),
    ):
        return "a percent sign may be left out"
    if "%" in right.words and stated(reading.value, right, rounding_percent=True):
        return "a percentage may be rounded"
    part = reading.operators == "/" and 0 < exact.ends(reading.value)[0] < 1 <= exact.ends(right.value)[0]
    return "it says what a part stands for" if part and not left.chained else None


def stated(value: Number, right: Reading, rounding_percent: bool = False) -> bool:
    """Whether a lone decimal is the rounded value, or the value cut off where that has no end."""
    if right.places is None or (right.places <= 0 and not rounding_percent):
        return False
    places = right.places + (2 if "%" in right.words else 0)
    endless = isinstance(value, Enclosure) or right.cut or has_no_end(value)
    return within(value, right.value, places) or (endless and within(value, right.value, places, cut=True))


def has_no_end(value: int | Fraction) -> bool:
    """Whether the decimals of a rational number go on for ever."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1


def within(value: Number, shown: Number, places: int, cut: bool = False) -> bool:
    """Whether a value that is shown with so many decimals was rounded, or cut off, to them."""
    if isinstance(shown, Enclosure) or places <= 0:
        return False
    one, stated_value = Fraction(1, 10**places), Fraction(shown)
    if not cut:
        away = [abs(end - stated_value) * 2 for end in exact.ends(value)]
        even = stated_value / one % 2 == 0
        return max(away) < one or (max(away) == one and (even or exact.magnitude(value) < abs(stated_value)))
    return all(end * stated_value >= 0 and 0 <= abs(end) - abs(stated_value) < one for end in exact.ends(value))


def cuttable(operators: str) -> bool:
    """Sums of decimals are not cut off."""
    return any(sign in operators for sign in "*/^r")


def difference(a: Number, b: Number) -> Fraction:
    return exact.ends(a)[0] - exact.ends(b)[0]


def near(a: Number, b: Number) -> bool:
    return abs(difference(a, b)) <= NEAR * exact.magnitude(a)


def fractional(value: Number) -> bool:
    return isinstance(value, Enclosure) or value.denominator > 1


def sentence(tokens: Tokens, i: int) -> str:
    """The text around a token, up to the ends of its sentence, or for a while."""
    start = end = i
    while start > max(i - SENTENCE, 0) and tokens.kinds[start - 1] != ".":
        start -= 1
    while end < i + SENTENCE and tokens.kinds[end] != ".":
        end += 1
    return tokens.text[tokens.starts[start] : tokens.starts[end]]
