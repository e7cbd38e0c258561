"""Templates: `{{item.answer}}`, `{{ sample.output_json.steps[0].text }}`.

Nothing is evaluated: a template is text and paths, and a path only walks down what JSON gave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from strategies.types import Candidate

Item = Mapping[str, Any]

SLOT = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
PATH = re.compile(r"\s*(item|sample)((?:\.\w[\w-]*|\[\d{1,6}\])+)\s*")
STEP = re.compile(r"\.(\w[\w-]*)|\[(\d+)\]")
OUTPUTS = ("output_text", "output_json", "output_tools")


class BadTemplate(ValueError):
    """A template that no row could fill."""


class Unfilled(LookupError):
    """What a template names is not there. `sample`: in the model's output, which is the model's fault."""

    def __init__(self, path: str, sample: bool) -> None:
        super().__init__(f"there is no {path}")
        self.sample = sample


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model said: its text and its tool calls, as in a chat completion's message."""

    output_text: str = ""
    output_tools: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, candidate: Candidate) -> Sample:
        return cls(candidate.text, candidate.last.message.get("tool_calls") or ())

    @property
    def output_json(self) -> Any:
        """The text as JSON; raise Unfilled where it is none."""
        try:
            return json.loads(self.output_text, parse_constant=no_json)
        except (ValueError, RecursionError):
            raise Unfilled("sample.output_json (the text is no JSON)", sample=True) from None

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI hands it to a `python` grader; `output_json` is None where the text is no JSON."""
        tools = [dict(call) for call in self.output_tools]
        message = {"role": "assistant", "content": self.output_text, "tool_calls": tools or None}
        try:
            value = self.output_json
        except Unfilled:
            value = None
        return {
            "output_text": self.output_text,
            "output_json": value,
            "output_tools": tools,
            "choices": [{"index": 0, "message": message}],
        }


def no_json(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


@dataclass(frozen=True, slots=True)
class Path:
    """`item.steps[0].text` as a root and the steps down from it."""

    root: str
    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        return self.root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)

    def walk(self, value: Any) -> Any:
        """What is there; raise Unfilled where nothing is."""
        for step in self.steps:
            match value, step:
                case list(), int() if step < len(value):
                    value = value[step]
                case dict(), str() if step in value:
                    value = value[step]
                case _:
                    raise Unfilled(str(self), self.root == "sample")
        return value


@cache
def parse(template: str) -> tuple[str | Path, ...]:
    """The pieces of a template; raise BadTemplate that says what a path may be."""
    pieces: list[str | Path] = []
    for i, piece in enumerate(SLOT.split(template)):
        pieces.append(path(piece) if i % 2 else piece)
    return tuple(pieces)


def path(text: str) -> Path:
    match = PATH.fullmatch(text)
    if match is None:
        raise BadTemplate(f"{{{{{text}}}}} is no path such as item.answer, item.steps[0] or sample.output_text")
    path = Path(match[1], tuple(name or int(index) for name, index in STEP.findall(match[2])))
    if path.root == "sample" and path.steps[0] not in OUTPUTS:
        raise BadTemplate(f"{path}: a sample has {', '.join(OUTPUTS)}")
    if isinstance(path.steps[0], int):
        raise BadTemplate(f"{path}: an item is an object")
    return path


def paths(template: str) -> Iterator[Path]:
    return (piece for piece in parse(template) if isinstance(piece, Path))


def fill(template: str, item: Item, sample: Sample) -> str:
    """The template with every path replaced by what is there: text as it is, anything else as JSON."""
    return "".join(
        piece if isinstance(piece, str) else spell(look_up(piece, item, sample)) for piece in parse(template)
    )


def look_up(path: Path, item: Item, sample: Sample) -> Any:
    if path.root == "item":
        return path.walk(dict(item))
    output, *rest = path.steps
    value = list(sample.output_tools) if output == "output_tools" else getattr(sample, str(output))
    try:
        return Path("", tuple(rest)).walk(value)
    except Unfilled:
        raise Unfilled(str(path), sample=True) from None


def spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
