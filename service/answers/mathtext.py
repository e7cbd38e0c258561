r"""The tokens of mathematics in prose: plain, Unicode, LaTeX and Markdown spellings become the same few kinds.

Everything here is linear in the text. The kinds: `n` number, `w` word or name, `+ - * / ^ ! %` operators, `( )` all
brackets, `=` the sign of equality and nothing else that has one in it, `~` approximately, `r` another relation, `$`
currency, `c` a LaTeX command with arguments, `…` an ellipsis, `?` anything unknown; `,` and `:` end a clause, `.` ends
a sentence or a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
SUPERSCRIPT = re.compile(f"[{SUPERSCRIPTS}]+")
DOWN = str.maketrans(SUPERSCRIPTS, "0123456789-")
VULGAR = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5)}
VULGAR |= {"⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8)}
PLAIN = str.maketrans(
    {character: rf"\frac{{{a}}}{{{b}}}" for character, (a, b) in VULGAR.items()}
    | dict.fromkeys("−–﹣－", "-")
    | dict.fromkeys("×∗✕✖⋅·∙•", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | {"≈": "~", "≃": "~", "≅": "~", "≒": "~", "＝": "=", "＋": "+", "π": r"\pi ", "√": r"\surd ", "％": "%"}
    | {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "’": "'", "…": r"\ldots ", "¢": " cents "}
)
WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w{1,20}\*?\}")
ADDRESS = re.compile(r"(?:\b[a-zA-Z]{2,10}://|www\.)\S*")
TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>")
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
ARROWS = frozenset({"=>", "->", "==>", "-->", "===>", "--->", "→", "⇒", "⟹", "⟶"})
APPROXIMATELY = frozenset({"~=", "=~"})
OTHER = {c: c for c in "+-*/^!%(),:="} | {"[": "(", "{": "(", "]": ")", "}": ")", ";": ".", ".": "."}
OTHER |= {"?": "?", "~": "~"} | dict.fromkeys("$£€¥₹", "$") | {"—": ",", "_": "?", "&": "&"}
SPOKEN = {"percent": "%", "equals": "="}
OPENING = {")": "(", "]": "[", "}": "{"}
UNSURE = frozenset({"line", "&", "**"})
OPERANDS = frozenset({"n", "w", "c", "(", ")"})


@dataclass(slots=True)
class Tokens:
    """The tokens of a text, as lists side by side; a `.` stands behind the last."""

    text: str
    kinds: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # as spelled
    starts: list[int] = field(default_factory=list)  # in the text
    spaced: list[bool] = field(default_factory=list)  # whether there is a space before
    partner: dict[int, int] = field(default_factory=dict)  # of a bracket: the other one
    opened: set[int] = field(default_factory=set)  # first tokens behind the opening of a formula
    lines: set[int] = field(default_factory=set)  # line ends

    def append(self, kind: str, word: str, start: int, spaced: bool) -> None:
        self.kinds.append(kind)
        self.words.append(word)
        self.starts.append(start)
        self.spaced.append(spaced)

    def slice(self, start: int, end: int) -> str:
        """The text of some tokens, on one line."""
        return " ".join(self.text[self.starts[start] : self.starts[end]].split())


def simplify(text: str) -> str:
    """The text with one spelling of each sign, without addresses, tags and program code."""
    if "```" in text:
        text = "\n".join(text.split("```")[::2])
    if not text.isascii():
        text = SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(DOWN)}}}", text).translate(PLAIN)
    if "\\" in text:
        text = ENVIRONMENT.sub("\n", WRAPPED.sub(r" \1", text))
    if "://" in text or "www." in text:
        text = ADDRESS.sub(" ? ", text)
    return TAG.sub(" , ", text) if "<" in text else text


def tokenize(text: str) -> Tokens:
    """Split a simplified text."""
    tokens = Tokens(text)
    formulas = dollars(text) if "$" in text else frozenset()
    spaced, closed = True, False
    for match in TOKEN.finditer(text):
        group, word, start = match.lastgroup, match[0], match.start()
        if group == "space":
            spaced = True
        elif group == "delimiter" or start in formulas:
            closed = delimit(tokens, word, start, closed)
        elif kind := kind_of(group, word):
            tokens.append(kind, word, start, spaced)
            spaced, closed = group == "line", False
    tokens.append(".", "", len(text), True)
    drop(tokens, [i for i, kind in enumerate(tokens.kinds) if kind in UNSURE and idle(tokens, i)])
    pair(tokens)
    return tokens


def delimit(tokens: Tokens, word: str, start: int, closed: bool) -> bool:
    """Note where a formula begins, and keep apart two that have nothing between them."""
    if closed:
        tokens.append(",", word, start, True)
    tokens.opened.add(len(tokens.kinds))
    return True


def kind_of(group: str | None, word: str) -> str:
    """The kind of a token; empty for what says nothing."""
    if group == "number":
        return "n" if NUMBER.fullmatch(word.replace("{,}", ",").replace("\\,", ",")) else "?"
    if group == "word":
        return SPOKEN.get(word, "w")
    if group == "other":
        if word in "'`":
            return ""
        return OTHER.get(word, "?")
    if group == "command":
        name = word[1:]
        return COMMANDS.get(name, "w" if len(name) > 2 else "?")
    if group == "relation":
        return "." if word in ARROWS else "~" if word in APPROXIMATELY else "r"
    return {"line": "line", "dots": "…", "stars": "**", "cross": "*"}[str(group)]


def dollars(text: str) -> frozenset[int]:
    """Where a dollar opens or closes a formula: the others are money.

    One closes when it follows something and no digit follows it; the last that could open then did.
    """
    found: list[int] = []
    opening: int | None = None
    position = text.find("$")
    while position >= 0:
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if opening is not None and "\n" in text[opening:position]:
            opening = None
        if opening is not None and before and before not in " \n=+-*/(\\$" and not after.isdigit() and after != ".":
            found += opening, position
            opening = None
        elif after and not after.isspace() and before != "\\":
            opening = position
        position = text.find("$", position + 1)
    return frozenset(found)


def idle(tokens: Tokens, i: int) -> bool:
    """Decide what a line end, an ampersand or stars are here, and whether they say nothing.

    A line that begins or ends with a sign of equality goes on; ampersands align; stars are powers or emphasis.
    """
    kinds, before, after = tokens.kinds, tokens.kinds[i - 1] if i else ".", tokens.kinds[i + 1 : i + 2]
    if kinds[i] == "line":
        kinds[i] = "."
        tokens.lines.add(i)
        return "=" in (before, *after) or (after == ["&"] and kinds[i + 2] == "=")
    if kinds[i] == "&":
        kinds[i] = "?"
        return "=" in (before, *after)
    power = before in OPERANDS and bool(OPERANDS.intersection(after)) and tokens.spaced[i] == tokens.spaced[i + 1]
    kinds[i] = "^" if power and tokens.words[i] == "**" else "?"
    return not power


def drop(tokens: Tokens, dropped: list[int]) -> None:
    """Take tokens out as if they had not been written."""
    if not dropped:
        return
    moved, kept, gone, gap = [], Tokens(tokens.text), set(dropped), False
    for i, kind in enumerate(tokens.kinds):
        moved.append(len(kept.kinds))
        gap = gap or tokens.spaced[i]
        if i not in gone:
            kept.append(kind, tokens.words[i], tokens.starts[i], gap)
            gap = False
    tokens.opened = {moved[i] for i in tokens.opened}
    tokens.lines = {moved[i] for i in tokens.lines - gone}
    tokens.kinds, tokens.words, tokens.starts, tokens.spaced = kept.kinds, kept.words, kept.starts, kept.spaced


def pair(tokens: Tokens) -> None:
    """Find the partner of every bracket; one that has none ends a clause."""
    stack: list[int] = []
    for i, kind in enumerate(tokens.kinds):
        if kind == "(":
            stack.append(i)
        elif kind == ")":
            if stack and OPENING[tokens.words[i]] == tokens.words[stack[-1]]:
                start = stack.pop()
                tokens.partner[i], tokens.partner[start] = start, i
            else:
                tokens.kinds[i] = ","
    for i in stack:
        tokens.kinds[i] = ","
