"""Reading a final answer out of a text, and the cheap half of telling whether two are equal.

Every function here is linear in the text but still belongs in a process that can be killed: texts and patterns come
from strangers. What is only equal to a mathematician (1/2 and 0.5) is for a `Reader` to find out.
"""

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal

AnswerType = Literal["math", "number", "choice", "text", "json"]

LETTERS = "A-J"
NUMBER = re.compile(r"[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w))?|[-−+]?\.\d+")
PHRASE = re.compile(r"(?:final\s+answer|answer)\s*(?:is|are|:|=)+\s*:?\s*([^\n]*)", re.IGNORECASE)
CHOICE = re.compile(rf"(?:^|[\s(*:\[])\(?([{LETTERS}])(?:\)|\.|\*|\]|:|,|$|(?=\s))")
LONE_CHOICE = re.compile(rf"^[\s*(\[]*([{LETTERS}])[\s*)\].:]*$", re.MULTILINE)
MARKED_CHOICE = re.compile(rf"\(([{LETTERS}])\)")
FRACTION = re.compile(
    r"([-−+]?)\s*(?:\\[dt]?frac\s*\{\s*(\d{1,30})\s*\}\s*\{\s*(\d{1,30})\s*\}|(\d{1,30})\s*/\s*(\d{1,30}))"
)
PROSE = re.compile(r"(?:(?<![\\\w])[A-Za-z]{2,}\W+){2}[A-Za-z]{2,}|\b(?:equals|that|because|which)\b", re.IGNORECASE)
QUANTITY = re.compile(r"^\$?\s*([-−+]?[\d,]+(?:\.\d+)?)\s*(?:\\?%|[A-Za-z]+(?: [A-Za-z]+){0,4})?$")


def read(text: str, kind: AnswerType = "math") -> str | None:
    """Return the final answer in canonical form, None where the text has none."""
    answer = READERS[kind](text)
    return answer or None


def read_math(text: str) -> str | None:
    """The last balanced box, what follows "final answer is", a lone choice letter, the last number."""
    if (inner := boxed(text)) is not None:
        return tidy(inner) or None
    stated = phrase(text)
    if stated is not None and not PROSE.search(stated):
        return tidy(stated) or None
    return lone_choice(text) or (last_number(stated) if stated else None) or last_number(text)


def read_number(text: str) -> str | None:
    for stated in (boxed(text), phrase(text)):
        if stated is not None and (number := fraction(stated) or last_number(tidy(stated))) is not None:
            return number
    return last_number(text)


def fraction(text: str) -> str | None:
    """The last fraction of two integers in the text, in lowest terms."""
    matches = list(FRACTION.finditer(text))
    if not matches or not int(matches[-1][3] or matches[-1][5]):
        return None
    sign, *parts = matches[-1].groups()
    over, under = [part for part in parts if part is not None]
    return ("-" if sign in ("-", "−") else "") + str(Fraction(int(over), int(under)))


def read_choice(text: str) -> str | None:
    for stated in (boxed(text), phrase(text)):
        if stated is not None and (match := CHOICE.search(plain(stated))):
            return match[1]
    return lone_choice(text)


def read_text(text: str) -> str | None:
    stated = boxed(text) or phrase(text)
    lines = [line for line in text.splitlines() if line.strip()]
    answer = stated if stated is not None else (lines[-1] if lines else "")
    return " ".join(plain(answer).strip(" .*\"'`").casefold().split()) or None


def read_json(text: str) -> str | None:
    """The last JSON object or array in the text, canonical: keys sorted, no spaces."""
    for start in reversed([match.start() for match in re.finditer(r"^\s*[\[{]|```(?:json)?\s*[\[{]", text, re.M)]):
        begin = min(i for i in (text.find("{", start), text.find("[", start)) if i >= 0)
        try:
            value, _ = json.JSONDecoder().raw_decode(text[begin:])
        except (ValueError, RecursionError):
            continue
        return canonical_json(value)
    return None


READERS: dict[AnswerType, Callable[[str], str | None]] = {
    "math": read_math,
    "number": read_number,
    "choice": read_choice,
    "text": read_text,
    "json": read_json,
}


def canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}` whose braces balance."""
    for match in reversed(list(re.finditer(r"\\f?boxed\s*\{|\\fbox\s*\{", text))[-8:]):
        if (inner := balanced(text, match.end())) is not None:
            return inner
    return None


def balanced(text: str, start: int) -> str | None:
    """What stands from `start` to the brace that closes the one before it."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


def phrase(text: str) -> str | None:
    """The rest of the line behind the last "final answer is", up to the end of the sentence."""
    matches = list(PHRASE.finditer(text))
    if not matches:
        return None
    rest = matches[-1][1].strip().strip("*").strip()
    rest = re.split(r"(?<=[^\d])\.\s|\.$|(?<=\d)\.\s", rest, maxsplit=1)[0]
    if math := re.search(r"\$([^$]+)\$|\\\((.+?)\\\)", rest):
        return math[1] or math[2]
    return rest or None


def lone_choice(text: str) -> str | None:
    """A choice letter that stands alone on a line or is marked, as (B), the last one."""
    found = LONE_CHOICE.findall(text) or MARKED_CHOICE.findall(text)
    return found[-1] if found else None


def last_number(text: str) -> str | None:
    numbers = NUMBER.findall(text)
    return tidy(numbers[-1]) if numbers else None


def plain(answer: str) -> str:
    r"""Without dollars, `\text{}`, `\left`, spacing commands: what a person would read."""
    answer = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}", r"\1", answer)
    answer = re.sub(r"\\(?:left|right|displaystyle|[,;:!]|quad|qquad)(?![a-zA-Z])", "", answer)
    return answer.replace("\\$", "").replace("$", "").replace("~", " ")


def tidy(answer: str) -> str:
    """A canonical spelling, so that most equal answers are equal strings."""
    answer = plain(answer).replace("−", "-").strip().strip("*").strip()
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = re.sub(r"\s*\^?\s*(?:\\circ|°)\s*$|\^\{\\circ\}\s*$", "", answer)
    answer = answer.rstrip(".,;:").strip()
    if match := QUANTITY.match(answer):
        answer = match[1]
    if (number := exact(answer)) is not None:
        return spell(number)
    if match := re.fullmatch(rf"\(?([{LETTERS}])\)?[.:]?", answer):
        return match[1]
    return " ".join(answer.split())


def exact(answer: str) -> Decimal | None:
    """The value of a plain integer or decimal, None for anything else."""
    digits = answer.replace(",", "").replace("−", "-").lstrip("+")
    if len(digits) > 64 or not NUMBER.fullmatch(digits):
        return None
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


def spell(number: Decimal) -> str:
    """A number without trailing zeros; as an integer where it is one, unless that would be absurdly long."""
    number = number.normalize()
    exponent = number.as_tuple().exponent
    if number == 0:
        return "0"
    return format(number, "f") if isinstance(exponent, int) and -32 <= exponent <= 32 else str(number)
