"""Scorers against closed forms."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.scripted import Reply, Script, ScriptedEngine
from strategies.branch import Branch
from strategies.errors import InvalidParameter, ScorerError
from strategies.scorers.confidence import Logprob, SelfCertainty
from strategies.scorers.judge import GRADES, Judge, expectation
from strategies.scorers.labels import at_first_token, shorten
from strategies.scorers.listwise_judge import ListwiseJudge
from strategies.select import softmax
from strategies.session import Session
from strategies.types import Candidate, Chat, Delta, Generation
from tests.strategies.support import candidate, engine, says, session

FINITE = st.floats(-50, 0)


def token(logprob: float, *top: float) -> dict[str, Any]:
    listed = [{"token": str(rank), "logprob": value} for rank, value in enumerate(top)]
    return {"token": "x", "logprob": logprob, "top_logprobs": listed}


def texts(*said: str) -> list[Candidate]:
    return [candidate(i, text=text) for i, text in enumerate(said)]


async def single(scorer: Judge | ListwiseJudge | Logprob | SelfCertainty, *of: Candidate, on: Session) -> list[float]:
    """One score each: that of the answer's only step."""
    return [score for (score,) in await scorer.score(on, of)]


def judging(labels: dict[str, float]) -> Script:
    return says(Reply("1", labels=labels))


# Labels


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_softmax_is_a_distribution_in_the_order_of_its_logits(logits: list[float]) -> None:
    weights = softmax(logits)
    assert sum(weights) == pytest.approx(1)
    assert all(weight >= 0 for weight in weights)
    assert sorted(range(len(logits)), key=lambda i: logits[i]) == sorted(
        range(len(logits)), key=lambda i: (weights[i], logits[i])
    )


def test_softmax_of_a_hand_computed_case() -> None:
    assert softmax([math.log(0.1), math.log(0.3)]) == pytest.approx([0.25, 0.75])


def test_softmax_neither_overflows_nor_vanishes() -> None:
    assert softmax([-1e9, -1e9]) == [0.5, 0.5]
    assert softmax([0.0, -1e9]) == [1.0, 0.0]


def test_a_label_that_was_not_listed_is_as_unlikely_as_the_least_listed() -> None:
    verdict = Generation("A", logprobs=({"top_logprobs": [entry(5, -0.5), entry(9, -3.0)]},))
    assert at_first_token(verdict, (5, 6, 9)) == [-0.5, -3.0, -3.0]


def entry(id: int, logprob: float) -> dict[str, Any]:
    return {"token": f"token_id:{id}", "logprob": logprob}


def test_a_verdict_without_probabilities_is_an_error() -> None:
    with pytest.raises(ScorerError):
        at_first_token(Generation("A"), (5,))


def test_a_text_is_shortened_to_its_end() -> None:
    assert shorten("0123456789", 1.0) == "0123456789"
    assert shorten("0123456789", 0.3) == "[…] 789"
    assert shorten("0123456789", 0.01) == "[…] "


async def test_a_label_of_several_tokens_is_an_error() -> None:
    class Bytewise(ScriptedEngine):
        async def tokenize(self, text: str, model: str | None = None, special: bool = False) -> tuple[int, ...]:
            return (1, 2)

    on = replace(session(judging({})), engine=Bytewise(judging({})))
    with pytest.raises(ScorerError, match="2 tokens"):
        await Judge().score(on, texts("42"))


# Judge


@given(st.lists(FINITE, min_size=5, max_size=5))
def test_a_grade_is_the_expectation_over_its_label(logits: list[float]) -> None:
    weights = [math.exp(logit) for logit in logits]
    by_hand = sum(weight * (int(label) - 1) / 4 for label, weight in zip(GRADES, weights, strict=True)) / sum(weights)
    assert expectation(softmax(logits)) == pytest.approx(by_hand)
    assert 0 <= expectation(softmax(logits)) <= 1 + 1e-12


async def test_a_judge_reads_its_grade_off_the_probabilities() -> None:
    spread = {grade: math.log(p) for grade, p in zip(GRADES, (0.1, 0.2, 0.3, 0.2, 0.2), strict=True)}
    assert await single(Judge(), *texts("42"), on=session(judging(spread))) == [pytest.approx(0.55)]


async def test_a_certain_judge_is_certain() -> None:
    sure = dict.fromkeys(GRADES, -1000.0)
    assert await single(Judge(), *texts("42"), on=session(judging(sure | {"5": 0.0}))) == [1.0]
    assert await single(Judge(), *texts("42"), on=session(judging(sure | {"1": 0.0}))) == [0.0]


async def test_a_judge_sees_question_and_answers_in_one_request_of_one_token_each() -> None:
    on = session(judging(dict.fromkeys(GRADES, -1.0)))
    scores = await Judge(model="other").score(on, texts("It is 41.", "It is {42}."))
    assert len(scores) == 2
    [(prompts, call)] = engine(on).calls
    shown = [engine(on).text(prompt) for prompt in prompts]
    assert all("What is 6 * 7?" in prompt for prompt in shown)
    assert "It is 41." in shown[0]
    assert "It is {42}." in shown[1]
    assert (call.n, call.max_tokens, call.temperature, call.model) == (1, 1, 0.0, "other")
    assert call.label_ids == tuple(engine(on).words[grade] for grade in GRADES)
    assert on.usage["scorer"].completion == Judge().tokens(2) == 2
    assert on.usage["scorer"].requests == 1


async def test_a_judge_sees_tool_calls() -> None:
    on = session(judging(dict.fromkeys(GRADES, -1.0)))
    calls = [{"id": "a", "function": {"name": "weather", "arguments": "{}"}}]
    await Judge().score(on, [candidate(0, text="", message={"tool_calls": calls})])
    [(prompts, _)] = engine(on).calls
    assert "weather" in engine(on).text(prompts[0])


async def test_a_judge_sees_every_turn_of_a_longer_conversation() -> None:
    turns = (
        {"role": "user", "content": "Six?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "7?"},
    )
    on = session(judging(dict.fromkeys(GRADES, -1.0)), chat=Chat(turns))
    await Judge().score(on, texts("42"))
    [(prompts, _)] = engine(on).calls
    assert "user: Six?\n\nassistant: Yes.\n\nuser: 7?" in engine(on).text(prompts[0])


async def test_an_answer_too_long_for_the_judge_is_shortened_to_its_end_and_noted_once() -> None:
    on = session(judging(dict.fromkeys(GRADES, -1.0)), length=100)
    long = " ".join(f"step{i}" for i in range(500)) + " so 42."
    await Judge().score(on, texts(long, "short", long))
    [(prompts, _)] = engine(on).calls
    assert all(len(prompt) + 1 <= 100 for prompt in prompts)
    assert "so 42." in engine(on).text(prompts[0])
    assert "step0 " not in engine(on).text(prompts[0])
    assert "Answer:\nshort" in engine(on).text(prompts[1])
    assert len(on.notes) == 1


async def test_answers_that_fit_are_shown_whole_without_a_note() -> None:
    on = session(judging(dict.fromkeys(GRADES, -1.0)))
    await Judge().score(on, texts("It is 42."))
    assert on.notes == []


@pytest.mark.parametrize("length", [0, 1, 20])
async def test_a_question_too_long_for_the_judge_is_an_error(length: int) -> None:
    on = session(judging({}), length=length)
    with pytest.raises(ScorerError, match="does not fit"):
        await Judge().score(on, texts("It is 42."))
    assert engine(on).calls == []


# Listwise judge


def favourite(word: str) -> Script:
    """A judge that likes the answer with a word, wherever it stands: letters by descending probability from it on."""

    def script(prompt: str, index: int) -> Reply:
        places = prompt.split("Question:")[1].split("\n\n[")[1:]
        liked = {place[0]: 0.0 if word in place else -10.0 for place in places}
        return Reply("A", labels=liked)

    return script


@given(st.permutations(range(6)), st.one_of(st.none(), st.integers(0, 1000)))
def test_the_shuffle_is_undone(order: Sequence[int], seed: int | None) -> None:
    said = [f"word{i}x" for i in order]
    for wanted in said:
        on = session(favourite(wanted), seed=seed)
        scores = asyncio.run(single(ListwiseJudge(), *texts(*said), on=on))
        assert scores.index(max(scores)) == said.index(wanted)
        assert sum(scores) == pytest.approx(1)


async def shown(seed: int | None) -> str:
    on = session(favourite("word0x"), seed=seed)
    await ListwiseJudge().score(on, texts(*(f"word{i}x" for i in range(8))))
    [([prompt], _)] = engine(on).calls
    return engine(on).text(prompt)


async def test_the_shuffle_is_the_seeds() -> None:
    assert await shown(1) == await shown(1)
    assert len({await shown(seed) for seed in range(10)}) > 5
    assert await shown(None) == await shown(None)


async def test_a_listwise_judge_asks_once_for_one_token() -> None:
    on = session(favourite("b"))
    await ListwiseJudge(model="other").score(on, texts("a", "b", "c"))
    [(prompts, call)] = engine(on).calls
    assert len(prompts) == 1
    assert (call.n, call.max_tokens, call.model) == (1, 1, "other")
    assert call.label_ids == tuple(engine(on).words[letter] for letter in "ABC")
    assert on.usage["scorer"].completion == ListwiseJudge().tokens(3) == 1


async def test_a_listwise_judge_compares_up_to_52() -> None:
    said = [f"word{i}x" for i in range(52)]
    scores = await single(ListwiseJudge(), *texts(*said), on=session(favourite("word51x")))
    assert scores.index(max(scores)) == 51
    assert ListwiseJudge().tokens(52) == 1
    with pytest.raises(InvalidParameter) as refused:
        ListwiseJudge().tokens(53)
    assert refused.value.param == "strategy.samples"


async def test_a_single_answer_is_the_best() -> None:
    assert await single(ListwiseJudge(), *texts("a"), on=session(favourite("a"))) == [1.0]


async def test_long_lists_are_shortened_and_noted() -> None:
    on = session(favourite("end1"), length=150)
    said = [" ".join(["word"] * 200) + f" end{i}" for i in range(4)]
    scores = await single(ListwiseJudge(), *texts(*said), on=on)
    assert scores.index(max(scores)) == 1
    assert len(on.notes) == 1


# The samples' own probabilities


def generation(scorer: Logprob | SelfCertainty, *tokens: dict[str, Any]) -> Generation:
    """What a branch with these log-probabilities becomes."""
    branch = Branch(confidence=scorer.confidence)
    branch.take(Delta(0, "42", len(tokens), "stop", logprobs=tokens))
    return branch.generation()


def certainty(tokens: list[dict[str, Any]]) -> float:
    return fmean(generation(SelfCertainty(), *tokens).confidences)


async def own(scorer: Logprob | SelfCertainty, *tokens: dict[str, Any]) -> float:
    on = session(says(""))
    [score] = await single(scorer, Candidate(0, (generation(scorer, *tokens),)), on=on)
    assert engine(on).calls == []
    assert scorer.tokens(64) == 0
    return score


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=20))
def test_logprob_is_the_geometric_mean(probabilities: list[float]) -> None:
    tokens = [token(math.log(p)) for p in probabilities]
    mean = math.prod(probabilities) ** (1 / len(probabilities))
    assert asyncio.run(own(Logprob(), *tokens)) == pytest.approx(mean)


async def test_a_sample_without_tokens_is_of_no_confidence() -> None:
    assert await own(Logprob()) < 1e-40
    assert await own(SelfCertainty()) == 0


async def test_an_impossible_token_is_floored() -> None:
    assert await own(Logprob(), token(-math.inf), token(0.0)) == pytest.approx(math.exp(-50))
    assert certainty([token(0.0, 0.0, -math.inf)]) == pytest.approx(50 - math.log(2))


async def test_every_step_counts() -> None:
    steps = tuple(generation(Logprob(), token(math.log(p))) for p in (0.5, 0.125))
    assert await single(Logprob(), Candidate(0, steps), on=session(says(""))) == [pytest.approx(0.25)]


async def test_a_uniform_model_is_not_certain() -> None:
    assert await own(SelfCertainty(), *[token(-3.0, *[math.log(1 / 20)] * 20)] * 5) == pytest.approx(0, abs=1e-12)


async def test_a_peaked_model_is_nearly_certain() -> None:
    assert await own(SelfCertainty(), token(0.0, math.log(0.999), *[math.log(1e-8)] * 19)) > 0.99


def test_certainty_is_the_divergence_from_uniform_by_hand() -> None:
    """KL((1/2, 1/2) || (0.8, 0.2)) = 1/2 log(0.5/0.8) + 1/2 log(0.5/0.2); a uniform token beside it halves the mean."""
    divergence = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    peaked, uniform = token(-1.0, math.log(0.8), math.log(0.2)), token(-1.0, math.log(0.5), math.log(0.5))
    assert certainty([peaked]) == pytest.approx(divergence)
    assert certainty([peaked, uniform]) == pytest.approx(divergence / 2)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=20))
def test_certainty_is_never_negative_and_grows_with_the_peak(weights: list[float]) -> None:
    distribution = sorted((weight / sum(weights) for weight in weights), reverse=True)
    sharper = [p**2 / sum(q**2 for q in distribution) for p in distribution]
    flat, sharp = ([token(-1.0, *map(math.log, row))] for row in (distribution, sharper))
    assert 0 <= certainty(flat) <= certainty(sharp) + 1e-9
