"""Votes that count a confidence: the softmax of CISC, P(True), and what DeepConf's filter keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.scripted import Reply, Script
from strategies.errors import InvalidParameter
from strategies.scorers.confidence import Logprob
from strategies.scorers.p_true import QUESTION, PTrue
from strategies.select import KeptVote, SoftmaxVote, ThresholdVote, by_selection, percentile
from strategies.self_consistency import SelfConsistency
from strategies.stopping import Adaptive, Consensus
from strategies.types import Candidate, Chat, Generation, Vote
from tests.strategies.support import CHAT, candidate, engine, finished, says, session

SCORED = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=12)


def scored(*said: tuple[int, float | None]) -> list[Candidate]:
    """A candidate for each pair of a class and a score; None is no opinion."""
    return [
        candidate(i, str(group), group, score=score, scores=(score,), finish_reason="stop")
        for i, (group, score) in enumerate(said)
    ]


def weights(votes: tuple[Vote, ...]) -> dict[str, float]:
    return {vote.answer: vote.weight for vote in votes}


# The softmax


@given(SCORED, st.floats(0.05, 10))
def test_weights_are_the_softmax_over_the_samples_that_vote(said: list[tuple[int, float]], temperature: float) -> None:
    """Against exp(c / T) / sum exp(c / T), with two that do not vote among them."""
    silent = [candidate(90, score=1.0), candidate(91, "0", 0, score=1.0, finish_reason="length")]
    voted = by_selection([*silent, *scored(*said)], SoftmaxVote(temperature))
    total = sum(math.exp(c / temperature) for _, c in said)
    expected = {str(g): sum(math.exp(c / temperature) for h, c in said if h == g) / total for g, _ in said}
    assert weights(voted.votes) == pytest.approx(expected)
    assert voted.ranked[0].answer in [a for a, w in expected.items() if w >= max(expected.values()) - 1e-9]


def test_a_low_temperature_lets_the_surest_win_and_a_high_one_the_majority() -> None:
    said = scored((1, 0.5), (1, 0.6), (2, 0.9))
    assert by_selection(said, SoftmaxVote(0.01)).ranked[0].answer == "2"
    assert by_selection(said, SoftmaxVote(100)).ranked[0].answer == "1"


def test_no_temperature_overflows() -> None:
    assert weights(by_selection(scored((1, 1.0), (2, 0.0)), SoftmaxVote(5e-324)).votes) == {"1": 1.0, "2": 0.0}


def test_nobody_votes_where_there_is_no_answer() -> None:
    for how in (SoftmaxVote(1), KeptVote(50), ThresholdVote(0.5)):
        found = by_selection([candidate(0, score=0.5)], how)
        assert (found.votes, len(found.ranked)) == ((), 1)


# What is kept


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0, 100))
def test_a_percentile_is_interpolated_as_numpy_does(numbers: list[float], percent: float) -> None:
    assert percentile(numbers, percent) == pytest.approx(float(np.percentile(numbers, percent)), abs=1e-9)


@pytest.mark.parametrize(("keep", "kept"), [(100, 10), (90, 9), (50, 5), (10, 1), (0.1, 1)])
def test_the_surest_percent_is_kept(keep: float, kept: int) -> None:
    voted = by_selection(scored(*[(i, i / 10 + 0.1) for i in range(10)]), KeptVote(keep))
    assert sum(weight > 0 for weight in weights(voted.votes).values()) == kept


def test_ties_are_kept_together() -> None:
    voted = by_selection(scored((1, 0.5), (2, 0.5), (3, 0.5), (4, 0.1)), KeptVote(10))
    assert weights(voted.votes) == {"1": 0.5, "2": 0.5, "3": 0.5, "4": 0.0}


def test_what_is_not_kept_still_stands_behind() -> None:
    voted = by_selection(scored((1, 0.2), (1, 0.2), (2, 0.9)), KeptVote(10))
    assert [c.id for c in voted.ranked] == [2, 0]
    assert [(vote.count, vote.weight) for vote in voted.votes] == [(1, 0.9), (2, 0.0)]


def test_only_samples_that_vote_are_ranked() -> None:
    """A sure sample without an answer would otherwise leave nobody."""
    silent = [candidate(90 + i, score=1.0) for i in range(9)]
    assert weights(by_selection([*silent, *scored((1, 0.2), (2, 0.3))], KeptVote(10)).votes) == {"2": 0.3, "1": 0.0}


def test_without_any_opinion_every_vote_counts_the_same() -> None:
    assert weights(by_selection(scored((1, None), (2, None), (2, None)), KeptVote(90)).votes) == {"2": 2.0, "1": 1.0}
    assert weights(by_selection(scored((1, 0.2), (2, 0.1)), ThresholdVote(0.5)).votes) == {"1": 1.0, "2": 1.0}


def test_a_sample_without_an_opinion_weighs_nothing_beside_those_that_have_one() -> None:
    assert weights(by_selection(scored((1, None), (2, 0.1)), KeptVote(100)).votes) == {"2": 0.1, "1": 0.0}


def test_a_consensus_is_a_share_of_what_is_sure_enough() -> None:
    """0.95 of 1.0 is enough, of 1.01 it is not; a vote that is not sure enough counts in neither."""
    said = [(1, 0.5), (1, 0.45), (2, 0.05), (3, 0.04)]
    assert Consensus(0.05, least=4).sure(scored(*said)) == {1: pytest.approx(0.95)}
    assert Consensus(0.04, least=4).sure(scored(*said)) == {}
    assert Consensus(0.05, least=5).sure(scored(*said)) == {}
    assert Consensus(0.9, least=1).sure(scored(*said)) == {}


# P(True)


def asked(policy: Script, p_true: Callable[[str], float]) -> Script:
    """A script that answers, and says of the answer that a prompt shows how likely it is."""

    def script(prompt: str, index: int) -> Reply | str:
        if QUESTION not in prompt:
            return policy(prompt, index)
        p = p_true(prompt.partition("assistant: ")[2].partition("\nuser: ")[0])
        return Reply("1", labels={"1": math.log(p), "0": math.log(1 - p)})

    return script


async def test_the_model_is_asked_of_each_answer_in_the_conversation_all_in_one_request() -> None:
    on = session(asked(says(""), {"It is 1.": 0.25, "It is 2.": 0.75}.__getitem__))
    scores = await PTrue().score(on, [candidate(0, "1"), candidate(1, "2")])
    assert scores == [pytest.approx((0.25,)), pytest.approx((0.75,))]
    [(prefixes, call)] = engine(on).calls
    assert [engine(on).text(ids) for ids in prefixes] == [
        f"system: Be brief.\nuser: What is 6 * 7?\nassistant: It is {i}.\nuser: {QUESTION}" for i in (1, 2)
    ]
    assert (call.n, call.max_tokens, call.temperature) == (1, 1, 0.0)
    assert on.usage["scorer"].requests == 1
    assert on.usage["scorer"].completion == PTrue().tokens(2) == 2


def test_what_shapes_the_prompt_goes_along_to_the_model_that_answered_and_to_no_other() -> None:
    fields = {"tools": [{"type": "function"}], "add_generation_prompt": False}
    chat = Chat(CHAT.messages, fields)
    assert PTrue().prompt(chat, "It is 1.", 1).fields == {"tools": fields["tools"]}
    assert PTrue("other").prompt(chat, "It is 1.", 1).fields == {}


def test_an_answer_that_goes_on_with_the_last_message_is_one_turn_with_it() -> None:
    chat = Chat((*CHAT.messages, {"role": "assistant", "content": "It"}))
    turns = PTrue().prompt(chat, " is 1.", 1).messages
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == "It is 1."


async def test_an_answer_that_is_too_long_is_shown_by_its_end() -> None:
    on = session(asked(says(""), lambda shown: 0.9 if shown.endswith("end.") else 0.1), length=60)
    long = Candidate(0, (Generation("word " * 200 + "end.", 201),))
    assert await PTrue().score(on, [long]) == [pytest.approx((0.9,))]
    assert len(on.notes) == 1


# The vote


def voting(samples: int, **knobs: Any) -> SelfConsistency:
    return SelfConsistency(samples=samples, vote="confidence", **knobs)


async def test_a_confident_answer_beats_the_majority() -> None:
    on = session(
        asked(says("It is 1.", "It is 1.", "It is 2."), lambda shown: 0.9 if "2" in shown else 0.1), scorer=PTrue()
    )
    outcome, rounds = await finished(voting(3, softmax_temperature=0.5), on)
    assert rounds[0].ranked[0].answer == "1"  # the plain vote, which stands if there is no time to score
    sure, unsure = math.exp(0.9 / 0.5), math.exp(0.1 / 0.5)
    total = sure + 2 * unsure
    assert [(v.answer, v.count) for v in outcome.round.votes] == [("2", 1), ("1", 2)]
    assert weights(outcome.round.votes) == pytest.approx({"2": sure / total, "1": 2 * unsure / total})
    assert on.usage["scorer"].requests == 1


async def test_the_probability_of_the_sample_can_be_the_confidence() -> None:
    said = (Reply("It is 1.", logprob=-2.0), Reply("It is 1.", logprob=-3.0), Reply("It is 2.", logprob=-0.1))
    on = session(says(*said), scorer=Logprob())
    outcome, _ = await finished(voting(3, confidence="sequence", softmax_temperature=0.5), on)
    by_hand = {"1": math.exp(math.exp(-2) / 0.5) + math.exp(math.exp(-3) / 0.5), "2": math.exp(math.exp(-0.1) / 0.5)}
    total = sum(by_hand.values())
    assert weights(outcome.round.votes) == pytest.approx({a: w / total for a, w in by_hand.items()})


async def test_a_rule_stops_only_if_the_confidence_elects_its_answer() -> None:
    """Four say 1 and are unsure; the fifth says 2 and is sure, so that the rule for 1 never fires."""
    script = asked(lambda prompt, i: "It is 2." if i == 0 else "It is 1.", lambda shown: 0.99 if "2" in shown else 0.01)
    on = session(script, scorer=PTrue())
    outcome, _ = await finished(voting(8, softmax_temperature=0.1, stop=Adaptive()), on)
    assert outcome.round.decision is None
    assert outcome.round.ranked[0].answer == "2"
    agreed = session(asked(says("It is 1."), lambda shown: 0.5), scorer=PTrue())
    outcome, _ = await finished(voting(8, stop=Adaptive()), agreed)
    assert outcome.round.decision is not None
    assert agreed.usage["scorer"].completion == outcome.round.decision.samples == 4


def test_the_scorer_is_what_the_confidence_says() -> None:
    assert voting(4).scorer == "p_true"
    assert voting(4, confidence="p_true").scorer == "p_true"
    assert voting(4, confidence="sequence").scorer == "logprob"
    assert voting(4, scorer="judge").scorer == "judge"
    elsewhere = {"type": "p_true", "model": "other"}
    assert voting(4, confidence="p_true", scorer=elsewhere).scorer == elsewhere


@pytest.mark.parametrize(
    ("knobs", "param"),
    [
        ({"vote": "majority", "confidence": "p_true"}, "strategy.confidence"),
        ({"vote": "weighted", "softmax_temperature": 0.5}, "strategy.softmax_temperature"),
        ({"vote": "confidence", "keep": 10.0}, "strategy.keep"),
        ({"vote": "confidence", "warmup": 4}, "strategy.warmup"),
        ({"vote": "confidence", "confidence": "sequence", "scorer": "judge"}, "strategy.confidence"),
    ],
)
def test_what_does_not_fit_is_named(knobs: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        SelfConsistency(**knobs)
    assert refused.value.param == param


def test_the_plan_counts_a_token_for_each_question() -> None:
    assert voting(16).plan(1, 100, PTrue()).scorer_tokens == 16
    assert voting(16).selection is None
