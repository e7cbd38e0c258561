"""The code in an answer: fenced blocks as CommonMark has them, read line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent

FENCE = re.compile(r"\s{0,16}(`{3,}|~{3,})\s*([^`\s]*)")
PYTHON = frozenset({"python", "py", "python3"})


def last_code_block(text: str) -> str | None:
    """The last block that says it is Python, else the last that says nothing; None where there is neither.

    A block that is never closed goes on to the end of the text.
    """
    found: dict[bool, str] = {}
    for language, code in blocks(text):
        if not language or language in PYTHON:
            found[bool(language)] = code
    return found.get(True, found.get(False))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Every fenced block: its language in small letters, and its lines without their common indent."""
    fence, language, lines = "", "", list[str]()
    for line in text.splitlines():
        if fence:
            if closes(line, fence):
                yield language, dedent("\n".join(lines))
                fence = ""
            else:
                lines.append(line)
        elif opening := FENCE.match(line):
            fence, language, lines = opening[1], opening[2].casefold(), []
    if fence:
        yield language, dedent("\n".join(lines))


def closes(line: str, fence: str) -> bool:
    """Whether a line is nothing but a fence at least as long."""
    bare = line.strip()
    return len(bare) >= len(fence) and set(bare) == {fence[0]}
