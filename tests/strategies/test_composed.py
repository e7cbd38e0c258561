"""Scorers that have no opinion, and scorers of scorers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import InvalidParameter
from strategies.scorers.composed import All, Composed, First, Part
from strategies.select import NO_OPINION, by_score, by_vote, fold, folds, score
from strategies.types import Aggregate, Candidate, Generation, Scorer, ScorerContext, Scores
from tests.strategies.support import candidate, says, session

OPINIONS = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=6)


@given(OPINIONS)
def test_what_has_no_opinion_changes_no_fold(scores: list[float | None]) -> None:
    known = [score for score in scores if score is not None]
    for how in ("last", "min", "prod", "mean"):
        assert fold(scores, how) == (fold(known, how) if known else None)


@given(OPINIONS)
def test_what_the_scores_up_to_each_step_fold_to(scores: list[float | None]) -> None:
    for how in ("last", "min", "prod", "mean"):
        assert folds(scores, how) == [fold(scores[: count + 1], how) for count in range(len(scores))]


@given(st.lists(st.floats(0, 1), min_size=1))
def test_folds_are_what_they_are_called(scores: list[float]) -> None:
    expected = {"last": scores[-1], "min": min(scores), "prod": math.prod(scores), "mean": fmean(scores)}
    for how, value in expected.items():
        assert fold(scores, how) == pytest.approx(value)  # type: ignore[arg-type]


def test_no_opinion_is_between_right_and_wrong() -> None:
    right, unknown, wrong = (replace(candidate(i, str(i), i), scores=(s,), score=s) for i, s in enumerate((1, None, 0)))
    assert [c.id for c in by_score([wrong, unknown, right]).ranked] == [0, 1, 2]
    assert [vote.weight for vote in by_vote([wrong, unknown, right], score).votes] == [1, NO_OPINION, 0]


@dataclass(frozen=True, slots=True)
class Says(Scorer):
    """Scores texts by a table, and remembers what it was shown."""

    table: Mapping[str, float | None]
    seen: list[str]
    stepwise: bool = False
    aggregate: Aggregate = "last"

    def tokens(self, judgements: int) -> int:
        return judgements

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[Scores]:
        return [self.of(c.texts if self.stepwise else [c.text], c.scores) for c in candidates]

    def of(self, texts: Sequence[str], known: Scores) -> Scores:
        new = texts[len(known) :] if self.stepwise else texts
        self.seen.extend(new)
        return (known if self.stepwise else ()) + tuple(self.table.get(text) for text in new)


def composed(kind: type[Composed], *scorers: Says) -> Composed:
    return kind(("x",) * len(scorers), tuple(Part(scorer, scorer.aggregate) for scorer in scorers))


TEXTS = ("a", "b", "c", "d")
ONE, TWO = {"a": 1.0, "b": 0.0, "c": None, "d": None}, {"a": 0.5, "b": 0.5, "c": 0.25}


@pytest.mark.parametrize(
    ("kind", "expected", "shown"),
    [(All, [0.5, 0.0, 0.25, None], ["a", "c", "d"]), (First, [1.0, 0.0, 0.25, None], ["c", "d"])],
)
async def test_the_second_scorer_is_shown_what_the_first_leaves_open(
    kind: type[Composed], expected: list[float | None], shown: list[str]
) -> None:
    second = Says(TWO, [])
    scorer = composed(kind, Says(ONE, []), second)
    run = session(says("x"), scorer=scorer)
    scored = await run.score([candidate(i, text=text) for i, text in enumerate(TEXTS)])
    assert [c.score for c in scored] == expected
    assert second.seen == shown
    assert scorer.tokens(4) == 8


async def test_a_step_is_scored_by_what_each_part_folds_to_and_asked_of_once() -> None:
    """The filter folds by `min`, the verifier by `last`, and the path grows."""
    filter_ = Says({"a": 1.0, "b": None, "c": 0.0}, [], stepwise=True, aggregate="min")
    verifier = Says({"a": 0.5, "b": 0.25, "c": 0.75}, [], stepwise=True)
    scorer = composed(All, filter_, verifier)
    run = session(says("x"), scorer=scorer)
    steps, path, paths = [Generation(text, ids=(1,)) for text in "abc"], candidate(0, text=""), []
    for count in (1, 2, 3):
        [path] = await run.score([Candidate(count, tuple(steps[:count]), scores=path.scores)])
        paths.append(path.scores)
    assert scorer.stepwise
    assert paths == [(0.5,), (0.5, 0.25), (0.5, 0.25, 0.0)]
    assert (filter_.seen, verifier.seen) == (["a", "b", "c"], ["a", "b"])


@pytest.mark.parametrize("body", [{"of": ("equations",)}, {}])
def test_one_scorer_is_not_composed(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="at least two"):
        All(**body)
