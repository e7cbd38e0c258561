"""DeepConf: its measures against a naive reference, its filter, and samples aborted while they are decoded."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.accounting import Budget
from strategies.branch import Branch
from strategies.errors import EngineUnavailable, InvalidParameter
from strategies.scorers.deepconf import UNREAD, DeepConf, Measure, Watch, groups
from strategies.seeds import derive
from strategies.self_consistency import SelfConsistency
from strategies.session import Session
from strategies.stopping import Adaptive
from strategies.types import Batch, Call, Candidate, Chat, Delta, Generation, Vote
from tests.strategies.support import finished, says, session

SEED = 7
CONFIDENCES = st.lists(st.floats(0, 30, width=32), min_size=1, max_size=60)


def sample(*confidences: float, id: int = 0) -> Candidate:
    return Candidate(id, (Generation("It is 1.", len(confidences), confidences=array("f", confidences)),))


def entry(*logprobs: float) -> dict[str, Any]:
    return {"token": "x", "logprob": -9.0, "top_logprobs": [{"token": "y", "logprob": p} for p in logprobs]}


# The scorer


def test_the_confidence_of_a_token_by_hand() -> None:
    """-(log 1/2 + log 1/8) / 2 = 2 log 2."""
    assert DeepConf().confidence(entry(math.log(0.5), math.log(0.125))) == pytest.approx(2 * math.log(2))


def test_a_certain_token_has_the_highest_confidence_that_there_is() -> None:
    assert DeepConf().confidence(entry(0.0, *[-math.inf] * 3)) == 75
    assert DeepConf().confidence(entry(*[-9999.0] * 20)) == 100
    assert DeepConf().confidence(entry(*[5.0] * 20)) == 0


def test_only_the_most_likely_tokens_are_read() -> None:
    assert DeepConf().logprobs == 20
    assert DeepConf(top_k=2).logprobs == 2
    assert DeepConf(top_k=2).confidence(entry(-1.0, -2.0, -90.0)) == 1.5
    assert DeepConf().confidence(entry()) is None


def reference(confidences: Sequence[float], window: int, measure: Measure) -> float:
    """Every measure from its definition: all windows, sliced one by one."""
    if measure == "mean" or window > len(confidences):
        return math.fsum(confidences) / len(confidences)
    if measure == "tail":
        return math.fsum(confidences[len(confidences) - window :]) / window
    means = []
    for start in range(len(confidences) - window + 1):
        means.append(math.fsum(confidences[start : start + window]) / window)
    means.sort()
    return (
        means[0]
        if measure == "lowest_group"
        else math.fsum(means[: max(len(means) // 10, 1)]) / max(len(means) // 10, 1)
    )


@pytest.mark.parametrize("measure", ["mean", "tail", "bottom_10", "lowest_group"])
@given(CONFIDENCES, st.integers(1, 70))
def test_every_measure_is_that_of_a_naive_reference(measure: Measure, confidences: list[float], window: int) -> None:
    scorer = DeepConf(measure, group=window)
    assert scorer.of(sample(*confidences)) == pytest.approx(reference(confidences, window, measure), abs=1e-9)


def test_the_measures_of_a_hand_made_sample() -> None:
    """Twenty windows of one token: 10 % are the two lowest."""
    falling = sample(*range(20, 0, -1))
    said = {m: DeepConf(m, group=1).of(falling) for m in ("mean", "tail", "bottom_10", "lowest_group")}
    assert said == {"mean": 10.5, "tail": 1.0, "bottom_10": 1.5, "lowest_group": 1.0}
    assert DeepConf("lowest_group", group=4).of(falling) == 2.5


def test_a_sample_shorter_than_the_window_has_its_mean() -> None:
    for measure in ("tail", "bottom_10", "lowest_group"):
        assert DeepConf(measure, group=2048).of(sample(1, 2, 6)) == 3


@pytest.mark.parametrize(("length", "window"), [(1, 1), (15, 1), (16, 2), (800, 100), (16384, 2048), (10**6, 2048)])
def test_the_window_is_an_eighth_of_the_sample_and_at_most_the_papers(length: int, window: int) -> None:
    assert DeepConf().window(length) == window
    assert DeepConf(group=5).window(length) == 5


async def test_scores_are_hundredths_of_nats_over_all_steps() -> None:
    on = session(says(""))
    steps = (*sample(10, 20).steps, *sample(60).steps)
    assert await DeepConf("mean").score(on, [Candidate(0, steps), sample(100)]) == [(pytest.approx(0.3),), (1.0,)]


async def test_there_is_no_opinion_where_nothing_could_be_read() -> None:
    on = session(says(""), scorer=DeepConf())
    [scored] = await on.score([sample()])
    assert (scored.scores, scored.score, scored.reasons) == ((None,), None, (UNREAD,))


class Entry(dict[str, Any]):
    """Of a token, to be seen when it is gone."""


def test_of_the_log_probabilities_nothing_is_kept_but_four_bytes_a_token() -> None:
    branch = Branch(confidence=DeepConf().confidence)
    entries = [Entry(entry(-1.0, -2.0)) for _ in range(50)]
    alive = [weakref.ref(one) for one in entries]
    branch.take(Delta(0, "x" * 50, 50, "stop", logprobs=tuple(entries)))
    del entries
    gc.collect()
    assert not any(one() for one in alive)
    kept = branch.generation().confidences
    assert isinstance(kept, array)
    assert (kept.itemsize, len(kept), set(kept)) == (4, 50, {1.5})


@given(CONFIDENCES, st.integers(1, 20), st.floats(0, 30), st.data())
def test_a_watch_falls_when_the_lowest_group_does_however_tokens_are_bunched(
    confidences: list[float], window: int, threshold: float, data: st.DataObject
) -> None:
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(confidences)), max_size=4))), len(confidences)]
    watch = Watch(window, threshold)
    fell = any(watch(confidences[:end]) for _, end in pairwise(cuts))
    assert fell == any(mean < threshold for mean in groups(confidences, window))


# Filtering what was drawn


@dataclass(eq=False)
class Sure:
    """An engine whose sample i, by its seed, has these confidences of its tokens, and then says its answer.

    Its events have `interval` tokens. A sample without an answer fails at its end.
    """

    samples: Sequence[tuple[Sequence[float], str]]
    base: int
    interval: int = 1
    calls: list[Call] = field(default_factory=list)
    generated: int = 0
    open_streams: int = 0

    async def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        assert call.seed is not None
        self.calls.append(call)
        self.open_streams += 1
        drawn = self.samples[call.seed - self.base :][: call.n]
        try:
            for start in range(0, max(len(row) for row, _ in drawn), self.interval):
                await asyncio.sleep(0)
                deltas = [self.delta(i, start, *one) for i, one in enumerate(drawn) if start < len(one[0])]
                self.generated += sum(len(delta.logprobs) for delta in deltas)
                yield Batch(tuple(deltas), 5 * call.n if start == 0 else None, 0)
            if not drawn[-1][1]:
                raise EngineUnavailable("gone")
        finally:
            self.open_streams -= 1

    def delta(self, index: int, start: int, confidences: Sequence[float], answer: str) -> Delta:
        new = confidences[start : start + self.interval]
        last = start + self.interval >= len(confidences)
        text = f"It is {answer}." if last else "Hm, "
        finish = "stop" if last and answer else None
        return Delta(index, text, start + len(new), finish, logprobs=tuple(entry(*[-c] * 20) for c in new))


def sure(
    strategy: SelfConsistency,
    *samples: tuple[Sequence[float], str],
    budget: Budget = Budget(),  # noqa: B008
    interval: int = 1,
) -> Session:
    scorer = strategy.scorer if isinstance(strategy.scorer, dict) else {}
    knobs = {name: value for name, value in scorer.items() if name != "type"}
    base = derive(SEED, strategy.type)
    assert base is not None
    engine: Any = Sure(samples, base, interval)
    return replace(session(says(""), seed=SEED, scorer=DeepConf(**knobs), budget=budget), engine=engine)


def engine(on: Session) -> Sure:
    assert isinstance(on.engine, Sure)
    return on.engine


def voting(samples: int, **more: Any) -> SelfConsistency:
    return SelfConsistency(samples=samples, vote="deepconf", scorer={"type": "deepconf", "group": 2}, **more)


def told(votes: Sequence[Vote]) -> list[Any]:
    """The votes, heaviest first; of the weights, sums of floats, nine digits."""
    return [(vote.answer, vote.count, round(vote.weight, 9)) for vote in votes]


def flat(confidence: float, answer: str, tokens: int = 4) -> tuple[Sequence[float], str]:
    return [confidence] * tokens, answer


async def test_a_vote_is_the_sum_of_the_confidences_of_those_kept() -> None:
    """Of 1, 2, 3, 10 and 20 the 60th percentile is 5.8: two are kept."""
    drawn = [flat(1, "1"), flat(2, "1"), flat(3, "1"), flat(10, "2"), flat(20, "3")]
    on = sure(strategy := voting(5, keep=40), *drawn)
    outcome, rounds = await finished(strategy, on)
    assert rounds[0].ranked[0].answer == "1"  # the plain vote, which stands if there is no time to score
    assert told(outcome.round.votes) == [("3", 1, 0.2), ("2", 1, 0.1), ("1", 3, 0.0)]
    assert [call.n for call in engine(on).calls] == [5]
    assert engine(on).calls[0].logprobs == 20


async def test_with_everything_kept_it_is_the_weighted_vote() -> None:
    drawn = [flat(3, "1"), flat(4, "2"), flat(2, "1")]
    kept, _ = await finished(voting(3, keep=100), sure(voting(3), *drawn))
    weighted = SelfConsistency(samples=3, vote="weighted", scorer={"type": "deepconf", "group": 2})
    plain, _ = await finished(weighted, sure(weighted, *drawn))
    assert kept.round.votes == plain.round.votes
    assert [vote.weight for vote in kept.round.votes] == [pytest.approx(0.05), pytest.approx(0.04)]


# Aborting what is being drawn

WARM = [flat(4, "1"), flat(6, "2"), flat(8, "1"), flat(10, "2")]
"""Their lowest groups are 4, 6, 8 and 10; with `keep` 50 the threshold is 7."""


async def test_a_sample_whose_confidence_falls_is_aborted_and_every_token_of_it_counted() -> None:
    """The second of its groups (9 + 4) / 2 is below 7, with the third token; the fourth never comes."""
    falling = ([9.0, 9.0, 4.0, *[9.0] * 100], "1")
    on = sure(strategy := voting(6, warmup=4, keep=50), *WARM, falling, flat(9, "2"))
    outcome, rounds = await finished(strategy, on)
    assert [c.tokens for c in outcome.round.candidates] == [4, 4, 4, 4, 3, 4]
    assert on.generated == engine(on).generated == 4 * 4 + 3 + 4
    assert on.cancelled == 3
    assert [c.last.finish_reason for c in outcome.round.candidates] == [*["stop"] * 4, "abort", "stop"]
    assert told(outcome.round.votes) == [("2", 3, 0.19), ("1", 2, 0.08)]
    assert on.notes == ["1 samples were aborted: a group's confidence fell below 7 nats"]
    assert len(rounds) == strategy.plan(1, 10, DeepConf()).rounds == 2
    assert engine(on).open_streams == on.progress.live == 0


async def test_behind_the_warm_up_every_sample_is_a_request_with_the_seed_that_it_has_anyway() -> None:
    on = sure(strategy := voting(7, warmup=4, keep=50), *WARM, *[flat(9, "1"), flat(9, "2")] * 2)
    await finished(strategy, on)
    base = engine(on).base
    assert [(call.n, (call.seed or 0) - base) for call in engine(on).calls] == [(4, 0), (1, 4), (1, 5), (1, 6)]
    assert on.usage["policy"].requests == 4
    assert (on.prompt_tokens, on.usage["policy"].prompt) == (5, 5 * 7)


async def test_only_a_full_window_is_compared() -> None:
    on = sure(strategy := voting(5, warmup=4, keep=50), *WARM, ([1.0, 20.0, 20.0], "1"))
    outcome, _ = await finished(strategy, on)
    assert outcome.round.candidates[4].tokens == 3
    assert outcome.round.candidates[4].complete


@pytest.mark.parametrize("interval", [1, 2, 3, 8])
async def test_how_tokens_are_bunched_decides_nothing(interval: int) -> None:
    """A sample whose last group falls is out, though it may have ended with the event that tells."""
    drawn = [*WARM, ([9.0, 9.0, 9.0, 1.0], "1"), flat(9, "2"), ([1.0] * 30, "1"), flat(9, "1")]
    on = sure(strategy := voting(8, warmup=4, keep=50), *drawn, interval=interval)
    outcome, _ = await finished(strategy, on)
    assert [c.complete for c in outcome.round.candidates] == [*[True] * 4, False, True, False, True]
    assert told(outcome.round.votes) == [("2", 3, 0.19), ("1", 3, 0.17)]
    assert on.generated == engine(on).generated


async def test_a_warm_up_that_agrees_ends_the_sampling() -> None:
    on = sure(strategy := voting(9, warmup=4, keep=50), flat(4, "2"), flat(6, "2"), flat(8, "1"), flat(10, "1"))
    outcome, rounds = await finished(strategy, on)
    assert outcome.stopped_by == "converged"
    assert outcome.round.decision is not None
    assert (outcome.round.decision.rule, outcome.round.decision.samples) == ("consensus", 4)
    assert outcome.round.decision.confidence == 1
    assert ([call.n for call in engine(on).calls], on.saved, len(rounds)) == ([4], 5, 1)


async def test_a_consensus_aborts_the_rest() -> None:
    """At a threshold of 7 the warm-up has 14 of 21.5 nats for 1; with k of 30 nats more that is 95 % from k = 5 on."""
    warm = [flat(4, "1"), flat(7, "1"), flat(7.5, "2"), flat(7, "1")]
    rest = [*[flat(30, "1")] * 5, *[flat(30, "2", tokens=1000)] * 3]
    on = sure(strategy := voting(12, warmup=4, keep=60), *warm, *rest)
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision is not None
    assert outcome.round.decision.samples == 4 + 5
    assert outcome.round.decision.confidence == pytest.approx((14 + 150) / (21.5 + 150))
    assert (on.saved, on.unused) == (0, 3)
    assert on.generated == engine(on).generated < 100
    assert engine(on).open_streams == 0


async def test_a_sample_that_fails_is_lost_and_keeps_nobody_waiting() -> None:
    """Two sure samples behind the one that fails decide, long before the last one would have ended."""
    rest = [flat(9, ""), flat(90, "2"), flat(90, "2"), flat(9, "1", tokens=1000)]
    on = sure(strategy := voting(8, warmup=4, keep=50), *WARM, *rest)
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision is not None
    assert [c.complete for c in outcome.round.candidates] == [True] * 6
    assert (on.failed, on.failures, on.unused) == (1, ["gone"], 1)
    assert on.generated == engine(on).generated < 100


async def test_when_all_later_samples_fail_the_warm_up_stands() -> None:
    on = sure(strategy := voting(6, warmup=4, keep=50), *WARM, flat(9, ""), flat(9, ""))
    outcome, _ = await finished(strategy, on)
    assert len(outcome.round.candidates) == 4
    assert outcome.round.ranked[0].answer == "2"
    assert on.failures[-1] == "gone"


async def test_a_budget_that_ends_leaves_what_has_finished() -> None:
    on = sure(strategy := voting(6, warmup=4, keep=50), *WARM, flat(9, "2", 99), flat(9, "1", 4), budget=Budget(30))
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    assert on.generated == engine(on).generated <= 31
    assert [c.complete for c in outcome.round.candidates] == [*[True] * 4, False, True]


async def test_a_budget_that_ends_in_the_warm_up_draws_no_more() -> None:
    on = sure(strategy := voting(6, warmup=4, keep=50), *WARM, flat(9, "2"), flat(9, "1"), budget=Budget(10))
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    assert len(engine(on).calls) == 1


async def test_where_no_sample_above_the_threshold_has_an_answer_votes_count_the_same_and_decide_nothing() -> None:
    """The surest sample says nothing that is an answer, and the later ones are aborted."""
    warm = [flat(4, "1"), flat(4, "1"), flat(4, "2"), flat(9, "so")]
    on = sure(strategy := voting(6, warmup=4, keep=1), *warm, flat(5, "2", 50), flat(5, "2", 50))
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision is None
    assert told(outcome.round.votes) == [("1", 2, 2.0), ("2", 1, 1.0)]
    assert [c.tokens for c in outcome.round.candidates[4:]] == [2, 2]


async def test_the_window_that_nobody_chose_is_an_eighth_of_the_median_warm_up() -> None:
    """Of 8, 16, 24 and 400 tokens the lower median is 16: windows of 2."""
    warm = [flat(5, "1", 8), flat(6, "2", 16), flat(7, "1", 24), flat(8, "2", 400)]
    strategy = SelfConsistency(samples=5, vote="deepconf", warmup=4, keep=50)
    on = sure(strategy, *warm, ([9.0, 9.0, 9.0, 1.0, 9.0], "1"))
    outcome, _ = await finished(strategy, on)
    assert on.scorer == DeepConf(group=2)
    assert outcome.round.candidates[4].tokens == 4


# What a request may say


@pytest.mark.parametrize(
    ("knobs", "param"),
    [
        ({"vote": "majority", "keep": 50.0}, "strategy.keep"),
        ({"vote": "weighted", "warmup": 4}, "strategy.warmup"),
        ({"vote": "deepconf", "confidence": "p_true"}, "strategy.confidence"),
        ({"vote": "deepconf", "softmax_temperature": 0.5}, "strategy.softmax_temperature"),
        ({"vote": "deepconf", "scorer": "logprob"}, "strategy.scorer"),
        ({"vote": "deepconf", "scorer": {"type": "judge"}}, "strategy.scorer"),
        ({"vote": "deepconf", "stop": Adaptive()}, "strategy.stop"),
        ({"vote": "deepconf", "warmup": 16}, "strategy.warmup"),
        (
            {"vote": "deepconf", "warmup": 4, "scorer": {"type": "deepconf", "measure": "tail"}},
            "strategy.scorer.measure",
        ),
    ],
)
def test_what_does_not_fit_is_named(knobs: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        SelfConsistency(samples=16, **knobs)
    assert refused.value.param == param


def test_a_vote_of_which_weights_depend_on_all_samples_tells_nothing_of_fewer() -> None:
    assert voting(8).selection is None
    assert voting(8).scorer == {"type": "deepconf", "group": 2}
    assert SelfConsistency(vote="deepconf").scorer == "deepconf"
