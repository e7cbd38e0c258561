"""The choice among candidates, by example and against a slow reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.select import by_score, by_vote, score
from strategies.types import Candidate, Round
from tests.strategies.support import candidate


def ids(round_: Round) -> list[int]:
    return [candidate.id for candidate in round_.ranked]


def test_the_majority_wins() -> None:
    voted = by_vote([candidate(0, "1", 0), candidate(1, "2", 1), candidate(2, "2", 1)])
    assert [(vote.answer, vote.count, vote.weight) for vote in voted.votes] == [("2", 2, 2.0), ("1", 1, 1.0)]
    assert ids(voted) == [1, 0]


def test_a_tie_goes_to_the_answer_that_came_first() -> None:
    tied = [candidate(3, "late", 0), candidate(1, "early", 1), candidate(2, "late", 0), candidate(4, "early", 1)]
    assert ids(by_vote(tied)) == [1, 2]


def test_weights_can_overrule_the_majority() -> None:
    weighted = by_vote(
        [candidate(0, "1", 0, score=0.2), candidate(1, "1", 0, score=0.25), candidate(2, "2", 1, score=0.5)], score
    )
    assert [vote.answer for vote in weighted.votes] == ["2", "1"]
    assert [vote.count for vote in weighted.votes] == [1, 2]
    assert weighted.votes[0].weight == 0.5
    assert weighted.votes[1].weight == pytest.approx(0.45)


def test_the_best_scored_candidate_stands_for_its_answer() -> None:
    same = [candidate(0, "1", 0, score=0.5), candidate(1, "1", 0, score=0.75), candidate(2, "1", 0, score=0.75)]
    assert ids(by_vote(same)) == ids(by_score(same)) == [1]


def test_the_best_score_wins_and_the_plain_majority_stands_beside_it() -> None:
    best = by_score([candidate(0, "1", 0, score=0.1), candidate(1, "1", 0, score=0.3), candidate(2, "2", 1, score=0.9)])
    assert ids(best) == [2, 1]
    assert [(vote.answer, vote.weight) for vote in best.votes] == [("1", 2.0), ("2", 1.0)]


def test_equal_scores_are_broken_by_order() -> None:
    assert ids(by_score([candidate(2, "c", 2, score=0.5), candidate(1, "b", 1, score=0.5)])) == [1, 2]


@pytest.mark.parametrize("choose", [by_vote, by_score])
def test_a_sample_without_an_answer_or_cut_never_votes(choose: Callable[[Sequence[Candidate]], Round]) -> None:
    chosen = choose(
        [
            candidate(0, None, None, text="I give up.", score=1.0),
            candidate(1, "1", 0, text="It is 1 or", finish_reason="length", score=1.0),
            candidate(2, "1", 0, text="It is 1, bu", finish_reason="abort", score=1.0),
            candidate(3, "2", 1, score=0.1),
        ]
    )
    assert [(vote.answer, vote.count) for vote in chosen.votes] == [("2", 1)]
    assert ids(chosen) == [3, 0, 1, 2]  # those without a vote last, complete ones first


def test_where_nobody_votes_the_complete_and_better_scored_is_returned_and_no_text_twice() -> None:
    silent = [
        candidate(0, text="cut", finish_reason="length", score=0.9),
        candidate(1, text="b", score=0.5),
        candidate(2, text="a", score=0.7),
        candidate(3, text="a", score=0.1),
        candidate(4, text="b", score=0.6),
        candidate(5, text="cut", finish_reason="length", score=0.9),
    ]
    chosen = by_vote(silent)
    assert ids(chosen) == [2, 4, 0]
    assert chosen.votes == ()


def test_every_distinct_answer_is_ranked_once() -> None:
    many = [candidate(i, str(i % 5), i % 5, score=1 - i / 100) for i in range(20)]
    assert ids(by_vote(many)) == ids(by_score(many)) == [0, 1, 2, 3, 4]


# Against a reference, for any candidates. Scores are eighths, whose sums are exact in any order.

SCORES = st.one_of(st.none(), st.integers(0, 8).map(lambda eighths: eighths / 8))
ENDS = st.sampled_from(["stop", "stop", "tool_calls", "length", "abort", "error"])


@st.composite
def samples(draw: st.DrawFn) -> list[Candidate]:
    """Candidates in the order of their ids."""
    made = []
    for id in range(draw(st.integers(0, 8))):
        group = draw(st.one_of(st.none(), st.integers(0, 3)))
        answer = None if group is None else f"answer {group}"
        text = draw(st.sampled_from(["x", "y", "z"]))
        made.append(candidate(id, answer, group, text=text, finish_reason=draw(ENDS), score=draw(SCORES)))
    return made


def voters(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.group is not None and c.last.finish_reason in ("stop", "tool_calls")]


def reference_votes(
    candidates: Sequence[Candidate], weigh: Callable[[Candidate], float]
) -> list[tuple[str, int, float]]:
    """Every class with its count and weight: the heaviest left, again and again, the earliest of equals."""
    tally: dict[str, list[float]] = {}
    for c in voters(candidates):
        tally.setdefault(c.answer or "", []).append(weigh(c))
    ranking = []
    while tally:
        best = None
        for answer in tally:  # in the order of their first candidates
            if best is None or sum(tally[answer]) > sum(tally[best]):
                best = answer
        assert best is not None
        weights = tally.pop(best)
        ranking.append((best, len(weights), sum(weights)))
    return ranking


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """The best score, the first of equals."""
    best = candidates[0]
    for c in candidates[1:]:
        if (c.score or 0) > (best.score or 0):
            best = c
    return best


def reference_silent(candidates: Sequence[Candidate]) -> list[int]:
    """Those that do not vote, complete ones before cut ones, the best left first, skipping texts seen."""
    ranking: list[Candidate] = []
    quiet = [c for c in candidates if c not in voters(candidates)]
    for complete in (True, False):
        left = [c for c in quiet if (c.last.finish_reason in ("stop", "tool_calls")) is complete]
        while left:
            best = best_of(left)
            left.remove(best)
            if best.text not in [c.text for c in ranking]:
                ranking.append(best)
    return [c.id for c in ranking]


@given(samples(), st.booleans())
def test_votes_are_those_of_the_reference(candidates: list[Candidate], weighted: bool) -> None:
    weigh = (lambda c: c.score or 0.0) if weighted else (lambda c: 1.0)
    voted = by_vote(candidates, score) if weighted else by_vote(candidates)
    expected = reference_votes(candidates, weigh)
    assert [(vote.answer, vote.count, vote.weight) for vote in voted.votes] == expected
    winners = [best_of([c for c in voters(candidates) if c.answer == answer]).id for answer, _, _ in expected]
    assert ids(voted) == winners + reference_silent(candidates)


@given(samples())
def test_the_best_are_those_of_the_reference(candidates: list[Candidate]) -> None:
    left, winners = voters(candidates), []
    while left:
        best = best_of(left)
        winners.append(best.id)
        left = [c for c in left if c.answer != best.answer]
    assert ids(by_score(candidates)) == winners + reference_silent(candidates)


@given(samples(), st.randoms(use_true_random=False), st.sampled_from(["majority", "weighted", "best"]))
def test_the_order_in_which_candidates_are_listed_is_of_no_account(
    candidates: list[Candidate], random: Random, rule: str
) -> None:
    choose = {"majority": by_vote, "weighted": lambda c: by_vote(c, score), "best": by_score}[rule]
    straight, shuffled = choose(candidates), choose(random.sample(candidates, len(candidates)))
    assert ids(straight) == ids(shuffled)
    assert straight.votes == shuffled.votes
