"""Splitting mathematics in prose: plain, LaTeX and Markdown spellings become the same few kinds of tokens.

Everything here is linear in the text.
"""

from __future__ import annotations

import re

from service.answers.equations.tokens import Tokens
from service.answers.equations.words import SPOKEN_SIGNS

NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+")
TOKEN = re.compile(
    r"""
      (?P<space>(?:[ \t]|\\[,;:!\ ]|\\q?quad(?![a-zA-Z]))+)
    | (?P<number>(?:[0-9]+(?:(?:[.,]|\{,\}|\\,)[0-9]+)*|\.[0-9]+(?:\.[0-9]+)*)(?:[eE][-+]?[0-9]+(?!\w))?)
    | (?P<cross>(?<=[0-9])[xX](?=[0-9.]))
    | (?P<word>[^\W\d_]-[^\W\d_]{3,}|[^\W\d_]{2,}(?:[-'][^\W\d_]+)+|[^\W\d_]\w*(?:(?<=_)\{\w{1,20}\})?)
    | (?P<line>[\r\n\f\v\x1c-\x1e\x85\u2028\u2029]\s*|\\\\(?:\[\w{1,8}\])?)
    | (?P<delimiter>\$\$|\\[()\[\]])
    | (?P<command>\\[a-zA-Z]+|\\[%$&#_{}])
    | (?P<relation>[-=]{1,3}>|<[-=~]{1,3}>?|[<>≤≥≠≡∝∈]=?|[!:+*/|^~-]=+|={2,}|=[~<>]|[→⇒⟹⟶↦])
    | (?P<dots>\.{2,})
    | (?P<stars>\*{2,})
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
COMMANDS = (
    dict.fromkeys(("times", "cdot", "ast"), "*")
    | dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac", "sqrt", "surd", "pi"), "c")
    | dict.fromkeys(("approx", "simeq", "sim", "cong", "doteq"), "~")
    | dict.fromkeys(("ne", "neq", "le", "leq", "ge", "geq", "lt", "gt", "equiv", "in", "propto", "mid"), "r")
    | dict.fromkeys(("implies", "Rightarrow", "Longrightarrow", "rightarrow", "to", "iff", "Leftrightarrow"), ".")
    | dict.fromkeys(("therefore", "because", "newline", "hline"), ".")
    | dict.fromkeys(("ldots", "cdots", "dots", "dotsc", "dotsb"), "…")
    | dict.fromkeys(("left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "textstyle"), "")
    | dict.fromkeys(("boxed", "fbox", "limits", "hspace", "phantom"), "")
    | {"div": "/", "%": "%", "$": "$", "&": "", "colon": ":"}
)
"""What LaTeX's commands are; empty for those that say nothing."""
ARROWS = frozenset({"=>", "->", "==>", "-->", "===>", "--->", "→", "⇒", "⟹", "⟶"})
APPROXIMATELY = frozenset({"~=", "=~"})
GROUPS = {"line": "line", "dots": "…", "stars": "**", "cross": "*"}
OTHER = {c: c for c in "+-*/^!%(),:="} | {"[": "(", "{": "(", "]": ")", "}": ")", ";": ".", ".": "."}
OTHER |= {"?": "?", "~": "~"} | dict.fromkeys("$£€¥₹", "$") | {"—": ",", "&": "&", "'": "", "`": ""}
OPENING = {")": "(", "]": "[", "}": "{"}
OPERANDS = frozenset({"n", "w", "c", "(", ")"})
"""What a power may stand between."""


def tokenize(text: str) -> Tokens:
    """Split a text that has one spelling of each sign."""
    tokens = Tokens(text)
    split(tokens)
    tokens.append(".", "", len(text), True)
    drop(tokens, {i for i, kind in enumerate(tokens.kinds) if kind in SETTLE and SETTLE[kind](tokens, i)})
    pair(tokens)
    return tokens


def split(tokens: Tokens) -> None:
    """Append every token of the text, and a comma between two formulas that have nothing between them."""
    formulas = dollars(tokens.text)
    spaced, closed = True, False
    for match in TOKEN.finditer(tokens.text):
        group, word, start = str(match.lastgroup), match[0], match.start()
        if group == "space":
            spaced = True
        elif group == "delimiter" or start in formulas:
            if closed:
                tokens.append(",", word, start, True)
            tokens.opened.add(len(tokens.kinds))
            closed = True
        elif kind := kind_of(group, word):
            tokens.append(kind, word, start, spaced)
            spaced, closed = group == "line", False


def kind_of(group: str, word: str) -> str:
    """The kind of a token; empty for what says nothing."""
    if group == "number":
        return "n" if NUMBER.fullmatch(word.replace("{,}", ",").replace("\\,", ",")) else "?"
    if group == "word":
        return SPOKEN_SIGNS.get(word, "w")
    if group == "command":
        return COMMANDS.get(word[1:], "w" if len(word) > 3 else "?")
    if group == "relation":
        return "." if word in ARROWS else "~" if word in APPROXIMATELY else "r"
    return GROUPS.get(group) or OTHER.get(word, "?")


def dollars(text: str) -> frozenset[int]:
    """Where a dollar opens or closes a formula: the others are money. One that closes a formula is on the line of the
    last that could open it."""
    found: list[int] = []
    opening: int | None = None
    for match in re.finditer(r"[$\n]", text):
        i = match.start()
        before, after = text[max(i - 1, 0) : i], text[i + 1 : i + 2]
        if match[0] == "\n":
            opening = None
        elif opening is not None and before and before not in " =+-*/(\\$" and not after.isdigit() and after != ".":
            found += opening, i
            opening = None
        elif after and not after.isspace() and before != "\\":
            opening = i
    return frozenset(found)


def settle_line(tokens: Tokens, i: int) -> bool:
    """A line end ends a sentence, but says nothing beside a sign of equality: the line goes on there."""
    tokens.kinds[i] = "."
    tokens.lines.add(i)
    after = tokens.kinds[i + 1 : i + 3]
    return "=" in (tokens.kinds[i - 1] if i else "", *after[:1]) or after == ["&", "="]


def settle_ampersand(tokens: Tokens, i: int) -> bool:
    """An ampersand says nothing where it aligns signs of equality."""
    tokens.kinds[i] = "?"
    return "=" in (tokens.kinds[i - 1] if i else "", tokens.kinds[i + 1])


def settle_stars(tokens: Tokens, i: int) -> bool:
    """Two stars are a power between operands, spaced alike; else they say nothing: emphasis."""
    before, after = tokens.kinds[i - 1] if i else "", tokens.kinds[i + 1]
    power = before in OPERANDS and after in OPERANDS and tokens.spaced[i] == tokens.spaced[i + 1]
    tokens.kinds[i] = "^" if power and tokens.words[i] == "**" else "?"
    return not power


SETTLE = {"line": settle_line, "&": settle_ampersand, "**": settle_stars}
"""Decides what a token of this kind is, and returns whether it says nothing."""


def drop(tokens: Tokens, dropped: set[int]) -> None:
    """Take tokens out as if they had not been written."""
    if not dropped:
        return
    moved, kept, gap = [], Tokens(tokens.text), False
    for i, kind in enumerate(tokens.kinds):
        moved.append(len(kept.kinds))
        gap = gap or tokens.spaced[i]
        if i not in dropped:
            kept.append(kind, tokens.words[i], tokens.starts[i], gap)
            gap = False
    tokens.opened = {moved[i] for i in tokens.opened}
    tokens.lines = {moved[i] for i in tokens.lines - dropped}
    tokens.kinds, tokens.words, tokens.starts, tokens.spaced = kept.kinds, kept.words, kept.starts, kept.spaced


def pair(tokens: Tokens) -> None:
    """Find the partner of every bracket; one that has none ends a clause."""
    stack: list[int] = []
    for i, kind in enumerate(tokens.kinds):
        if kind == "(":
            stack.append(i)
        elif kind == ")" and stack and OPENING[tokens.words[i]] == tokens.words[stack[-1]]:
            start = stack.pop()
            tokens.partner[i], tokens.partner[start] = start, i
        elif kind == ")":
            tokens.kinds[i] = ","
    for i in stack:
        tokens.kinds[i] = ","
