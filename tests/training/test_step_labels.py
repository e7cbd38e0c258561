"""Where steps end, what is kept of their marks, and what a verifier reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from service.jobs.journal import Journal
from strategies.scorers.generative import Generative
from strategies.types import Candidate, Chat, Generation
from tests.training.support import USER, Characters
from training.conversations import IGNORED, render
from training.errors import TrainingError
from training.step_labels import LabelTokens, StepLabel, questions, read_labels, steps, turns

TOKENS = Characters()
LABELS = LabelTokens.of(TOKENS, "yes_no")
END = 0  # a special token


def cut(text: str, delimiter: str = "\n\n") -> list[str]:
    ids = (*TOKENS.encode(text), END)
    return [TOKENS.decode(prefix, skip_special_tokens=True) for prefix in steps(TOKENS, ids, delimiter)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", ["one"]),
        ("one\n\ntwo", ["one\n\n", "one\n\ntwo"]),
        ("one\n\ntwo\n\n", ["one\n\n", "one\n\ntwo\n\n"]),
        ("\n\none\n\n\n\ntwo", ["\n\none\n\n", "\n\none\n\n\n\ntwo"]),
        ("a\nb", ["a\nb"]),
    ],
)
def test_a_step_ends_with_its_delimiter(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_the_delimiter_can_be_chosen() -> None:
    assert cut("a\nb\nc", "\n") == ["a\n", "a\nb\n", "a\nb\nc"]


def test_a_token_that_reaches_beyond_the_delimiter_belongs_to_its_step() -> None:
    class Pairs(Characters):
        def decode(self, ids: object, *, skip_special_tokens: bool = False) -> str:
            return "".join({1: "one.", 2: "\n\nT", 3: "wo"}[i] for i in ids)  # type: ignore[attr-defined]

    assert steps(Pairs(), (1, 2, 3), "\n\n") == [(1, 2), (1, 2, 3)]


def test_labels_are_kept_and_half_a_line_is_not(tmp_path: Path) -> None:
    mark = StepLabel("q", "s", 1, 2)
    journal = Journal(tmp_path / "marks")
    journal.append({"row": row, "labels": [asdict(mark)]} for row in (3, 4))
    with journal.path.open("a") as file:
        file.write(json.dumps({"row": 5, "labels": [asdict(mark)]})[:20])
    assert read_labels(journal) == {3: [mark], 4: [mark]}
    assert read_labels(Journal(tmp_path / "none")) == {}


@pytest.mark.parametrize(
    ("right", "soft", "labels"), [(0, False, [2]), (1, False, [1]), (3, False, [1]), (1, True, [1, 2, 2])]
)
def test_the_loss_is_on_the_mark_alone(right: int, soft: bool, labels: list[int]) -> None:
    found = list(questions(TOKENS, [StepLabel("q", "s", right, 3)], LABELS, soft=soft))
    assert [example.labels[-1] for example in found] == [example.input_ids[-1] for example in found] == labels
    assert all(set(example.labels[:-1]) == {IGNORED} for example in found)


def test_a_mark_of_several_tokens_is_refused() -> None:
    class Spelling(Characters):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [ord(character) for character in text]

    with pytest.raises(TrainingError, match="'Yes' is 3 tokens"):
        LabelTokens.of(Spelling(), "yes_no")


def test_the_verifier_is_trained_on_what_the_scorer_will_ask() -> None:
    """The same words for the same steps, so that the two cannot drift apart."""
    chat = Chat((USER,))
    solution = Candidate(0, (Generation("6 * 7 is\n\n"), Generation("42.")))
    for position, text in enumerate(("6 * 7 is", "6 * 7 is\n\n42.")):
        asked = Generative().prompt(chat.transcript, solution, position + 1)(1.0)
        assert isinstance(asked, Chat)
        [example] = questions(TOKENS, [StepLabel(chat.transcript, text, 1, 1)], LABELS, soft=False)
        assert example.input_ids[:-1] == render(TOKENS, asked.messages, answer=True)


def test_a_turn_for_every_step_up_to_the_first_wrong_one() -> None:
    marks = [
        StepLabel("q", "a", 2, 2),
        StepLabel("q", "a\n\nb", 1, 2),
        StepLabel("q", "a\n\nb\n\nc", 2, 2),
        StepLabel("q", "a\n\nx", 0, 2),
        StepLabel("q", "a\n\nx\n\ny", 2, 2),  # behind an error: the scorer would not believe it
        StepLabel("q", "", 0, 2),
    ]
    labels = LabelTokens.of(TOKENS, "rlhflow")
    found = list(turns(TOKENS, marks, labels, "\n\n"))
    chat = Chat(({"role": "user", "content": "q"},))
    taught = {}
    for example in found:
        for place, label in enumerate(example.labels):
            if label != IGNORED:
                taught[tuple(example.input_ids[:place])] = label
    asked = {}
    for parts, good in (("a", True), ("ab", True), ("abc", True), ("ax", False), ([""], False)):
        solution = Candidate(0, tuple(Generation(f"{part}\n\n", ids=(1,)) for part in parts))
        prompt = Generative(format="rlhflow").prompt(chat.transcript, solution, len(parts))(1.0)
        assert isinstance(prompt, Chat)
        asked[tuple(render(TOKENS, prompt.messages, answer=True))] = labels.token(good)
    assert taught == asked
    assert len(found) == 3, "the longest solution teaches all its steps"
    assert sum(label != IGNORED for example in found for label in example.labels) == len(asked), "each once"
