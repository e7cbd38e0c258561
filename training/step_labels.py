"""Step labels: where steps end, what was found out about them, and what a verifier reads."""

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
class StepLabel:
    """A solution up to one of its steps, and how many rollouts from there, of how many, were right."""

    question: str
    solution: str
    right: int
    rollouts: int


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


def read_labels(journal: Journal) -> dict[int, list[StepLabel]]:
    """The labels that were written down, by row."""
    return {entry["row"]: [StepLabel(**label) for label in entry["labels"]] for entry in journal if "labels" in entry}


@dataclass(frozen=True, slots=True)
class LabelTokens:
    """The tokens that the scorer reads as yes and no."""

    yes: int
    no: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, form: Format) -> LabelTokens:
        """Raise TrainingError where a label is not a token of its own."""
        return cls(*(single(tokenizer, label) for label in LABELS[form]))

    def token(self, good: bool) -> int:
        return self.yes if good else self.no


def single(tokenizer: Tokenizer, label: str) -> int:
    ids = tokenizer.encode(label, add_special_tokens=False)
    if len(ids) != 1:
        raise TrainingError(f"the label {label!r} is {len(ids)} tokens in this model; the generative scorer needs one")
    return ids[0]


def questions(
    tokenizer: Tokenizer, labels: Sequence[StepLabel], tokens: LabelTokens, *, soft: bool
) -> Iterator[Example]:
    """`yes_no`: the scorer's own prompt and the label behind it, on which the loss is."""
    for label in labels:
        text = PROMPT.format(question=label.question, solution=label.solution)
        prompt = render(tokenizer, as_chat(text).messages, answer=True)
        outcomes = [tokens.yes] * label.right + [tokens.no] * (label.rollouts - label.right)
        for token in outcomes if soft else [tokens.token(label.right > 0)]:
            yield Example([*prompt, token], [IGNORED] * len(prompt) + [token])


def turns(tokenizer: Tokenizer, labels: Sequence[StepLabel], tokens: LabelTokens, delimiter: str) -> Iterator[Example]:
    """`rlhflow`: a solution up to its first wrong step, with a label on every step, as the answer to its turn.

    Behind an error nothing is asked, because the scorer takes the steps before for right. A step that several solutions
    begin with is trained on once.
    """
    good = {(label.question, label.solution): label.right > 0 for label in labels}
    seen: set[tuple[str, str]] = set()
    for label in sorted(
        labels, key=lambda label: -len(label.solution)
    ):  # long ones first: they train their beginnings, too
        path = [(label.question, solution) for solution in beginnings(label.solution, delimiter)]
        if path[-1] in seen or not all(good.get(part, True) for part in path[:-1]):
            continue
        texts = [part.strip() for part in label.solution.split(delimiter) if part.strip()] or [""]
        asked = [rlhflow(label.question, texts[: count + 1], 1.0) for count in range(len(texts))]
        prompts = [render(tokenizer, chat.messages, answer=True) for chat in asked]
        ids = [*prompts[-1], tokens.token(good[path[-1]])]
        targets = [IGNORED] * len(ids)
        for part, prompt in zip(path, prompts, strict=True):
            if part in good and part not in seen and ids[: len(prompt)] == prompt:
                targets[len(prompt)] = tokens.token(good[part])
                seen.add(part)
        yield Example(ids, targets)


def beginnings(solution: str, delimiter: str) -> list[str]:
    """A solution up to the end of each of its steps, as its labels have it."""
    parts = solution.split(delimiter)
    return [delimiter.join(parts[: i + 1]).strip() for i, part in enumerate(parts) if part.strip()] or [""]
