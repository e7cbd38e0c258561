"""The answer that a scorer likes best."""

from __future__ import annotations

from math import log

import pytest

from strategies.accounting import Budget
from strategies.best_of_n import BestOfN
from strategies.errors import InvalidParameter
from strategies.scorers.confidence import SelfCertainty
from strategies.scorers.judge import GRADES, Judge
from strategies.scorers.listwise_judge import ListwiseJudge
from strategies.types import Scorer
from tests.strategies.support import CHAT, engine, finished, grades, says, session

SAID = ("First it is 1.", "Surely it is 2.", "Again it is 1.", "Never it is 1.")
LIKES = {"First": 0.5, "Surely": 0.875, "Again": 0.5, "Never": 0.25}


def graded(prompt: str) -> dict[str, float]:
    """All probability on two grades, whose expectation is the liking."""
    [like] = [like for word, like in LIKES.items() if word in prompt]
    return {"1": log(1 - like), "5": log(like)} | dict.fromkeys(("2", "3", "4"), -1000.0)


async def test_the_highest_score_wins_against_the_majority() -> None:
    on = session(grades(says(*SAID), graded), scorer=Judge())
    outcome, rounds = await finished(BestOfN(samples=4), on)
    assert [candidate.text for candidate in outcome.round.ranked] == ["Surely it is 2.", "First it is 1."]
    assert outcome.round.ranked[0].score == pytest.approx(0.875)
    assert [(vote.answer, vote.count, vote.weight) for vote in outcome.round.votes] == [("1", 3, 3.0), ("2", 1, 1.0)]
    assert rounds[0].ranked[0].answer == "1"  # the plain vote, which stands if there is no time to score


async def test_a_weighted_vote_adds_the_scores_of_an_answer() -> None:
    on = session(grades(says(*SAID), graded), scorer=Judge())
    outcome, _ = await finished(BestOfN(samples=4, select="weighted_vote"), on)
    assert [candidate.text for candidate in outcome.round.ranked] == ["First it is 1.", "Surely it is 2."]
    assert [vote.weight for vote in outcome.round.votes] == [pytest.approx(1.25), pytest.approx(0.875)]


async def test_samples_are_one_call_and_scores_are_one_call() -> None:
    on = session(grades(says(*SAID), graded), scorer=Judge())
    await finished(BestOfN(samples=4), on)
    [(chat, sampled), (prompts, scored)] = engine(on).calls
    assert chat == CHAT
    assert (sampled.n, sampled.logprobs, sampled.temperature, sampled.max_tokens) == (4, None, None, None)
    assert len(prompts) == 4
    assert (scored.n, scored.max_tokens, scored.temperature) == (1, 1, 0.0)
    assert len(scored.label_ids) == len(GRADES)


async def test_a_scorer_of_probabilities_has_them_from_the_samples_themselves() -> None:
    on = session(says(*SAID), scorer=SelfCertainty())
    await finished(BestOfN(samples=4, scorer="self_certainty"), on)
    [(_, call)] = engine(on).calls
    assert call.logprobs == 20


async def test_a_cut_answer_never_wins_however_it_is_liked() -> None:
    said = ("First it is 1.", "Surely " + "and so on " * 50)
    on = session(grades(says(*said), graded), scorer=Judge(), interval=1)
    on.budget = Budget(tokens=30)
    outcome, _ = await finished(BestOfN(samples=2), on)
    assert [candidate.score for candidate in outcome.round.candidates] == [pytest.approx(0.5), pytest.approx(0.875)]
    assert outcome.round.ranked[0].text == "First it is 1."


async def test_more_samples_than_a_listwise_judge_compares_are_refused_before_anything_is_generated() -> None:
    on = session(says(*SAID), scorer=ListwiseJudge())
    with pytest.raises(InvalidParameter) as refused:
        await finished(BestOfN(samples=53, scorer="listwise_judge"), on)
    assert refused.value.param == "strategy.samples"
    assert engine(on).calls == []


@pytest.mark.parametrize(("scorer", "tokens"), [(Judge(), 16), (ListwiseJudge(), 1), (SelfCertainty(), 0)])
def test_the_plan_is_every_sample_at_its_longest_and_its_scores(scorer: Scorer, tokens: int) -> None:
    plan = BestOfN(samples=16).plan(1, 100, scorer)
    assert (plan.rounds, plan.branches, plan.policy_tokens, plan.scorer_tokens) == (1, 16, 1600, tokens)
