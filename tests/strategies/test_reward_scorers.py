"""Process and outcome reward models: what they are shown, and how their rows become scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from strategies.errors import ScorerError
from strategies.scorers.outcome import OutcomeReward
from strategies.scorers.prm import ELIDED, TAG, Prm, elided
from strategies.types import Candidate, Chat, Generation, Ids, Rows
from tests.strategies.support import says, session

Made = list[list[list[float]]]


@dataclass(slots=True)
class Words:
    """A reward model whose tokens are characters; its ratings are a function of the prompt."""

    room: int = 10_000
    rows: str = "token"  # or "mark"
    score: float = 0.75
    asked: list[str] = field(default_factory=list)
    requests: int = 0

    async def context(self) -> int:
        return self.room

    async def tokenize(self, text: str, special: bool = False) -> Ids:
        if text == TAG:
            return (0,)
        return tuple(([1] if special else []) + [ord(letter) for letter in text])

    async def render(self, chat: Chat) -> Ids:
        text = "".join(f"<{turn['role']}>{turn['content']}" for turn in chat.messages)
        return tuple(ord(letter) for letter in text.replace(TAG, "\0"))

    async def rate(self, prompts: Sequence[Ids]) -> list[Rows]:
        self.requests += 1
        self.asked += ["".join(map(chr, prompt)) for prompt in prompts]
        return [self.rating(prompt) for prompt in prompts]

    def rating(self, prompt: Ids) -> Rows:
        """At each newline or tag the given score less the share of the prompt that follows it, so that all differ."""
        marks = [place for place, token in enumerate(prompt) if token in (0, 10)]
        rows = [[0.5, 0.5] for _ in prompt]
        for number, place in enumerate(marks):
            rows[place] = [1 - self.score / (number + 1), self.score / (number + 1)]
        return rows if self.rows == "token" else [rows[place] for place in marks]


def path(*steps: str, scores: tuple[float, ...] = ()) -> Candidate:
    return Candidate(0, tuple(Generation(step, 2, "step", ids=(1, 2)) for step in steps), scores=scores)


def sampled(text: str) -> Candidate:
    return Candidate(0, (Generation(text, 9),))


@pytest.mark.parametrize("rows", ["token", "mark"])
async def test_every_step_gets_the_score_at_its_mark(rows: str) -> None:
    model = Words(rows=rows)
    scores = await Prm("p", model).score(session(says("")), [path("a\n\n", "b\n\n"), path("c\n\n")])
    assert scores == [(0.75, 0.375), (0.75,)]
    assert model.requests == 1
    assert model.asked == ["\1What is 6 * 7?a\nb\n", "\1What is 6 * 7?c\n"]


async def test_a_separator_within_a_step_is_made_safe() -> None:
    model = Words()
    [scores] = await Prm("p", model).score(session(says("")), [path("a\nb\n\n", "c\n\n")])
    assert len(scores) == 2
    assert model.asked == ["\1What is 6 * 7?a b\nc\n"]


async def test_the_qwen_format_is_the_model_cards() -> None:
    model = Words(rows="mark")
    [scores] = await Prm("p", model, "qwen").score(session(says("")), [path(f"a{TAG}b\n\n", "c")])
    assert scores == (0.75, 0.375)
    [asked] = model.asked
    assert asked.startswith("<system>Please reason step by step, and put your final answer within \\boxed{}.")
    assert asked.endswith("<user>What is 6 * 7?<assistant>ab\0c\0")


async def test_scores_that_a_path_has_stand() -> None:
    [scores] = await Prm("p", Words()).score(session(says("")), [path("a\n\n", "b\n\n", scores=(0.9,))])
    assert scores == (0.9, 0.375)


async def test_a_sampled_answer_is_scored_by_its_paragraphs() -> None:
    [scores] = await Prm("p", Words()).score(session(says("")), [sampled("one\n\n\n\ntwo\n\nthree")])
    assert scores == (0.75, 0.375, 0.25)


async def test_what_it_reads_is_counted() -> None:
    on = session(says(""))
    await Prm("p", Words()).score(on, [path("a\n\n"), path("b\n\n")])
    usage = on.usage["scorer"]
    assert (usage.prompt, usage.completion, usage.requests) == (2 * len("\1What is 6 * 7?a\n"), 0, 1)


async def test_a_long_path_loses_its_earliest_texts_and_no_score() -> None:
    model = Words(room=len("\1What is 6 * 7?") + 10)
    on = session(says(""))
    [scores] = await Prm("p", model).score(on, [path("first step\n\n", "second\n\n", "third\n\n")])
    assert len(scores) == 3
    assert model.asked == [f"\1What is 6 * 7?{ELIDED}\n{ELIDED}\nthird\n"]
    assert on.notes == ["the context of the scorer 'p' is too short for some paths: it saw their ends only"]


async def test_a_question_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ScorerError, match="the question does not fit the context of the scorer 'p', 5 tokens"):
        await Prm("p", Words(room=5)).score(session(says("")), [path("a\n\n")])


def test_early_steps_are_elided_until_the_share_is_gone() -> None:
    assert elided(["aaaa", "bbbb", "cccc"], 0.3) == [ELIDED, "bbbb", "cccc"]
    assert elided(["aaaa", "bbbb", "cccc"], 0.4) == [ELIDED, ELIDED, "cccc"]
    assert elided([ELIDED, "bbbb"], 0.01) == [ELIDED, ELIDED]


class Broken(Words):
    """Rates with rows that no reward model should return."""

    def __init__(self, rows: Made) -> None:
        super().__init__()
        self.made = rows

    async def rate(self, prompts: Sequence[Ids]) -> list[Rows]:
        return [list(rows) for rows in self.made]


@pytest.mark.parametrize(
    ("rows", "says_"),
    [
        ([[[0.5, 0.5]] * 3], "'p' returned 3 scores for 2 steps"),
        ([[[0.5, 0.5], [3.0, -2.0]]], "no probabilities"),
        ([[[0.5, 0.5], [0.2, 0.2]]], "no probabilities"),
        ([[[0.5, 0.5], []]], "no probabilities"),
    ],
)
async def test_nonsense_is_an_error_that_names_the_scorer(rows: Made, says_: str) -> None:
    with pytest.raises(ScorerError, match=says_):
        await Prm("p", Broken(rows)).score(session(says("")), [path("a\n\n", "b\n\n")])


async def test_an_outcome_model_reads_the_conversation_with_the_answer() -> None:
    model = Broken([[[0.25]], [[0.5]]])
    assert await OutcomeReward("o", model).score(session(says("")), [sampled("42"), sampled("43")]) == [(0.25,), (0.5,)]


async def test_an_answer_too_long_for_the_outcome_model_keeps_its_end() -> None:
    model = Words(room=80)
    shown = await OutcomeReward("o", model).fit(on := session(says("")), "x" * 100 + "42")
    text = "".join(map(chr, shown))
    assert len(shown) <= 80
    assert text.startswith("<system>Be brief.<user>What is 6 * 7?<assistant>[…] x")
    assert text.endswith("x42")
    assert on.notes


async def test_an_outcome_model_with_a_row_a_token_is_an_error() -> None:
    with pytest.raises(ScorerError, match="'o' did not return one score"):
        await OutcomeReward("o", Words()).score(session(says("")), [sampled("42")])
