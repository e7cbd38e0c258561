"""Marks on the steps of solutions: where steps end, what was found out about them, and what a verifier reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.jobs.journal import Journal
from strategies.scorers.generative import LABELS, PROMPT, Format, rlhflow
from strategies.scorers.labels import as_chat
from strategies.types import Ids
from training.conversations import IGNORED, Example, Tokenizer, render
from training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Mark:
    """A solution up to one of its steps, and how many ways on from there, of how many, were right."""

    question: str
    solution: str
    right: int
    ways: int


def steps(tokenizer: Tokenizer, ids: Ids, delimiter: str) -> list[Ids]:
    """A solution up to each of its steps, the last time the whole of it.

    A step ends with the token that completes the delimiter, as it does in a search; blank steps are parts of the next.
    """
    found: list[Ids] = []
    start = 0
    for end in range(1, len(ids)):
        step = tokenizer.decode(ids[start:end], skip_special_tokens=True)
        if delimiter in step.lstrip():
            found.append(ids[:end])
            start = end
    if found and not tokenizer.decode(ids[start:], skip_special_tokens=True).strip():
        found.pop()  # only the end of text is left
    return [*found, ids]


def read_marks(journal: Journal) -> dict[int, list[Mark]]:
    """The marks that were written down, by row."""
    return {entry["row"]: [Mark(**mark) for mark in entry["marks"]] for entry in journal}


@dataclass(frozen=True, slots=True)
class Labels:
    """The tokens of the marks that the scorer reads."""

    yes: int
    no: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, form: Format) -> Labels:
        """Raise TrainingError where a mark is not a token of its own."""
        return cls(*(single(tokenizer, label) for label in LABELS[form]))

    def mark(self, good: bool) -> int:
        return self.yes if good else self.no


def single(tokenizer: Tokenizer, label: str) -> int:
    ids = tokenizer.encode(label, add_special_tokens=False)
    if len(ids) != 1:
        raise TrainingError(f"the mark {label!r} is {len(ids)} tokens in this model; the generative scorer needs one")
    return ids[0]


def questions(tokenizer: Tokenizer, marks: Sequence[Mark], labels: Labels, *, soft: bool) -> Iterator[Example]:
    """`yes_no`: the scorer's own prompt and the mark behind it, on which the loss is."""
    for mark in marks:
        text = PROMPT.format(question=mark.question, solution=mark.solution)
        prompt = render(tokenizer, as_chat(text).messages, answer=True)
        ways = [labels.yes] * mark.right + [labels.no] * (mark.ways - mark.right)
        for label in ways if soft else [labels.mark(mark.right > 0)]:
            yield Example([*prompt, label], [IGNORED] * len(prompt) + [label])


def turns(tokenizer: Tokenizer, marks: Sequence[Mark], labels: Labels, delimiter: str) -> Iterator[Example]:
    """`rlhflow`: a solution up to its first wrong step, with a mark on every step, as the answer to its turn.

    Behind an error nothing is asked, because the scorer takes the steps before for right. A step that several solutions
    begin with is taught once.
    """
    good = {(mark.question, mark.solution): mark.right > 0 for mark in marks}
    taught: set[tuple[str, str]] = set()
    for mark in sorted(marks, key=lambda mark: -len(mark.solution)):  # long ones first: they teach their beginnings too
        path = [(mark.question, solution) for solution in beginnings(mark.solution, delimiter)]
        if path[-1] in taught or not all(good.get(part, True) for part in path[:-1]):
            continue
        texts = [part.strip() for part in mark.solution.split(delimiter) if part.strip()] or [""]
        asked = [rlhflow(mark.question, texts[: count + 1], 1.0) for count in range(len(texts))]
        prompts = [render(tokenizer, chat.messages, answer=True) for chat in asked]
        ids = [*prompts[-1], labels.mark(good[path[-1]])]
        targets = [IGNORED] * len(ids)
        for part, prompt in zip(path, prompts, strict=True):
            if part in good and part not in taught and ids[: len(prompt)] == prompt:
                targets[len(prompt)] = labels.mark(good[part])
                taught.add(part)
        yield Example(ids, targets)


def beginnings(solution: str, delimiter: str) -> list[str]:
    """A solution up to the end of each of its steps, as its marks have it."""
    parts = solution.split(delimiter)
    return [delimiter.join(parts[: i + 1]).strip() for i, part in enumerate(parts) if part.strip()] or [""]
