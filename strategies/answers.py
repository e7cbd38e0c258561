"""Reading a final answer out of a text, and the cheap half of telling whether two are equal.

Every function here is linear in the text but still belongs in a process that can be killed: texts and patterns come
from untrusted clients. What is only equal to a mathematician (1/2 and 0.5) is for a `Reader` to find out.
"""

import json
import re
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal

AnswerType = Literal["math", "number", "choice", "text", "json"]

LETTERS = "A-J"
SIGN = r"(?:(?<![\w)\]}])[-−+])?"  # in 5-3 it is an operator
NUMBER = re.compile(rf"{SIGN}(?:(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}(?!\w))?|\.\d+)")
PHRASE = re.compile(
    r"(?:answers?|correct\s+(?:option|choice))[\s*_]*(?:is\b|are\b|:|=)[\s_:=]*(?:\*\*\s+)?(?:\\\[\s*)?", re.IGNORECASE
)
EMPHASIS = re.compile(r"\*\*(?=\S)([^*]+)\*\*")
END = re.compile(r"\.(?:\s|$)|,?\s(?:because|since)\b")
MATH = re.compile(r"\$([^$]+)\$|\\\(((?:[^\\]|\\[^()])+)\\\)")
CHOICE = re.compile(rf"(?:^|[\s(*:\[])\(?([{LETTERS}])(?:\)|\.|\*|\]|:|,|$|(?=\s))")
LONE_CHOICE = re.compile(rf"^[ \t*(\[]*([{LETTERS}])[ \t*)\].:]*$", re.MULTILINE)
MARKED_CHOICE = re.compile(rf"\(([{LETTERS}])\)")
FRACTION = re.compile(
    rf"({SIGN}) ?(?:\\[dt]?frac\s*\{{\s*(\d{{1,30}})\s*\}}\s*\{{\s*(\d{{1,30}})\s*\}}|(\d{{1,30}})\s*/\s*(\d{{1,30}}))"
)
PROSE = re.compile(r"(?:(?<![\\\w])[A-Za-z]{2,}\W+){2}[A-Za-z]{2,}|\b(?:equals|that|because|which)\b", re.IGNORECASE)
FACTORS = r"(?:pi|dozen|hundred|thousand|million|billion|trillion)\b"  # words behind a number that are no units
UNIT = rf"[mgshlL]|(?!{FACTORS})[A-Za-z]{{2,}}(?: [A-Za-z]+){{0,4}}"  # behind a space: 2x is no quantity
QUANTITY = re.compile(rf"([-−+]?[\d,]+(?:\.\d+)?)(?: ?\\?%| ?(?:[kcmn]m|[km]g|m[lL]|mph|lbs?|ft)| (?:{UNIT}))")
JSON = re.compile(r'(?<!\w)(?:\{(?=\s*["}])|\[(?=\s*[\[\]{"\-\dtfn]))')
EXACT = Context(prec=100)
LONGEST = 1000  # characters of an answer that are worth tidying


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
    """The last number of the text where it is a fraction of two integers, in lowest terms."""
    matches = list(FRACTION.finditer(text))
    if not matches or NUMBER.search(text, matches[-1].end()):
        return None
    sign, *parts = matches[-1].groups()
    over, under = [int(part) for part in parts if part is not None]
    return ("-" if sign in ("-", "−") else "") + str(Fraction(over, under)) if under else None


def read_choice(text: str) -> str | None:
    for stated in (boxed(text), phrase(text)):
        if stated is not None and (match := CHOICE.search(plain(stated))):
            return match[1]
    return lone_choice(text)


def read_text(text: str) -> str | None:
    """The box, the rest of the line behind "the answer is", or the last line, without case, quotes and emphasis."""
    lines = [line for line in text.splitlines() if line.strip()]
    answer = boxed(text) or phrase(text) or (lines[-1] if lines else "")
    return " ".join(plain(answer).casefold().split()).strip(" .*\"'`") or None


def read_json(text: str) -> str | None:
    """The last JSON object or array in the text, canonical: keys sorted, no spaces."""
    found: object = None
    position = failures = 0
    while failures < 1000 and (match := JSON.search(text, position)):
        try:
            found, position = json.JSONDecoder().raw_decode(text, match.start())
        except json.JSONDecodeError as error:
            failures, position = failures + 1, max(error.pos, match.end())  # what failed is not read again
        except (ValueError, RecursionError):
            break  # thousands of digits or brackets: nothing that was meant as an answer
    return None if found is None else canonical_json(found)


READERS: dict[AnswerType, Callable[[str], str | None]] = {
    "math": read_math,
    "number": read_number,
    "choice": read_choice,
    "text": read_text,
    "json": read_json,
}


def canonical_json(value: object) -> str:
    """Keys sorted, no spaces; half a surrogate pair stays an escape, since it cannot be sent."""
    spelled = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return spelled.encode(errors="backslashreplace").decode()


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}` whose braces balance and hold anything."""
    for match in reversed(list(re.finditer(r"\\f?boxed\s*\{|\\fbox\s*\{", text))[-8:]):
        if (inner := balanced(text, match.end())) and inner.strip():
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
    """The rest of the line behind the last "answer is", up to the end of the clause, or the formula in it."""
    matches = list(PHRASE.finditer(text))
    if not matches:
        return None
    rest = text[matches[-1].end() :].partition("\n")[0]
    rest = END.split(EMPHASIS.sub(r"\1", rest), maxsplit=1)[0].strip("* ")
    if math := MATH.search(rest):
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
    answer = re.sub(r"\\(?:(?:left|right|displaystyle)(?![a-zA-Z])|[!()\[\]])", "", answer)
    answer = re.sub(r"(?<=\d)(?:\\[,;: ]|\{,\})(?=\d{3})", "", answer)  # thousands
    answer = re.sub(r"\\(?:q?quad(?![a-zA-Z])|[,;: ])|~", " ", answer)
    return re.sub(r"\\?[$£€]", "", answer)


def tidy(answer: str) -> str:
    """A canonical spelling, so that most equal answers are equal strings; it is its own canonical spelling."""
    answer = " ".join(answer.split())
    if len(answer) > LONGEST:
        return answer
    while (tidier := tidy_once(answer)) != answer:  # a \text in a \text
        answer = tidier
    return answer


def tidy_once(answer: str) -> str:
    answer = plain(answer).replace("−", "-").strip(" *").rstrip(" *.,;:")
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = re.sub(r" ?\^? ?(?:\\circ|\{\\circ\}|°)$", "", answer)
    if match := QUANTITY.fullmatch(answer):
        answer = match[1]
    if (number := exact(answer)) is not None:
        return spell(number)
    if match := re.fullmatch(rf"\(?([{LETTERS}])\)?[.:]?", answer):
        return match[1]
    return " ".join(answer.split())


def exact(answer: str) -> Decimal | None:
    """The value of a plain integer or decimal, None for anything else."""
    if len(answer) > 64 or not NUMBER.fullmatch(answer):
        return None
    try:
        return Decimal(answer.replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None


def spell(number: Decimal) -> str:
    """A number without trailing zeros; as an integer where it is one, unless that would be absurdly long."""
    number = number.normalize(EXACT)
    exponent = number.as_tuple().exponent
    if number == 0:
        return "0"
    return format(number, "f") if isinstance(exponent, int) and -32 <= exponent <= 32 else str(number)
