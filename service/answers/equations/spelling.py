"""One spelling of every sign: Unicode and LaTeX become a few signs of ASCII; what is no prose is taken out."""

from __future__ import annotations

import re

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


def simplify(text: str) -> str:
    """The text with one spelling of each sign, without addresses, tags and blocks of program code."""
    if "```" in text:
        text = "\n".join(text.split("```")[::2])
    if not text.isascii():
        text = SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(DOWN)}}}", text).translate(PLAIN)
    if "\\" in text:
        text = ENVIRONMENT.sub("\n", WRAPPED.sub(r" \1", text))
    if "://" in text or "www." in text:
        text = ADDRESS.sub(" ? ", text)
    return TAG.sub(" , ", text) if "<" in text else text
