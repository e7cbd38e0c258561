"""Votes of sampled answers."""

from __future__ import annotations

import math

import pytest

from service.engines.scripted import Reply
from strategies.errors import InvalidParameter
from strategies.scorers.confidence import Logprob, SelfCertainty
from strategies.scorers.judge import GRADES, Judge
from strategies.self_consistency import SelfConsistency
from tests.strategies.support import CHAT, engine, finished, grades, says, session


async def test_the_answer_that_most_agree_on_wins() -> None:
    on = session(says("It is 1.", "It is 2.", "Say 2.", "I give up.", "It is 2."))
    outcome, _ = await finished(SelfConsistency(samples=5), on)
    assert outcome.round.ranked[0].text == "It is 2."
    assert outcome.round.ranked[0].id == 1
    assert [(vote.answer, vote.count, vote.weight) for vote in outcome.round.votes] == [("2", 3, 3.0), ("1", 1, 1.0)]
    assert len(outcome.round.candidates) == 5


async def test_the_conversation_is_sent_untouched_in_one_call_for_all_samples() -> None:
    on = session(says("42"))
    await finished(SelfConsistency(samples=40), on)
    [(chat, call)] = engine(on).calls
    assert chat == CHAT
    assert call.n == 40
    assert (call.temperature, call.max_tokens, call.stop, call.logprobs, call.each_token) == (
        None,
        None,
        (),
        None,
        False,
    )


async def test_a_weighted_vote_counts_probabilities() -> None:
    said = (Reply("It is 1.", logprob=-2.0), Reply("It is 1.", logprob=-3.0), Reply("It is 2.", logprob=-0.5))
    on = session(says(*said), scorer=Logprob())
    outcome, rounds = await finished(SelfConsistency(samples=3, vote="weighted"), on)
    assert rounds[0].ranked[0].answer == "1"  # the plain vote, which stands if there is no time to score
    assert outcome.round.ranked[0].answer == "2"
    assert [vote.count for vote in outcome.round.votes] == [1, 2]
    assert outcome.round.votes[0].weight == pytest.approx(math.exp(-0.5))
    assert outcome.round.votes[1].weight == pytest.approx(math.exp(-2) + math.exp(-3))


async def test_a_weighted_vote_asks_for_what_its_scorer_needs() -> None:
    on = session(says("42"), scorer=SelfCertainty())
    await finished(SelfConsistency(samples=2, vote="weighted", scorer="self_certainty"), on)
    [(_, call)] = engine(on).calls
    assert call.logprobs == 20


async def test_a_judge_can_weigh_votes() -> None:
    def graded(prompt: str) -> dict[str, float]:
        return dict.fromkeys(GRADES, -1000.0) | ({"5": 0.0} if "It is 2" in prompt else {"2": 0.0})

    on = session(grades(says("It is 1.", "It is 1.", "It is 2."), graded), scorer=Judge())
    outcome, _ = await finished(SelfConsistency(samples=3, vote="weighted", scorer="judge"), on)
    assert [(vote.answer, vote.count, vote.weight) for vote in outcome.round.votes] == [("2", 1, 1.0), ("1", 2, 0.5)]


def test_a_majority_takes_no_scorer() -> None:
    with pytest.raises(InvalidParameter) as refused:
        SelfConsistency(scorer="judge")
    assert refused.value.param == "strategy.scorer"


def test_a_weighted_vote_is_by_probability_unless_told_otherwise() -> None:
    assert SelfConsistency(vote="weighted").scorer == "logprob"
    assert SelfConsistency(vote="weighted", scorer="judge").scorer == "judge"
    assert SelfConsistency().scorer is None


def test_the_plan_is_every_sample_at_its_longest_and_its_scores() -> None:
    plan = SelfConsistency(samples=40).plan(1, 100, None)
    assert (plan.rounds, plan.branches, plan.policy_tokens, plan.scorer_tokens) == (1, 40, 4000, 0)
    assert SelfConsistency(samples=40, vote="weighted").plan(1, 100, Logprob()).scorer_tokens == 0
    assert SelfConsistency(samples=40, vote="weighted", scorer="judge").plan(1, 100, Judge()).scorer_tokens == 40
