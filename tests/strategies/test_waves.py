"""Sampling in waves that a rule stops: what is decided, what is aborted, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from math import log
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engines.scripted import WORD, Reply
from strategies.accounting import Budget
from strategies.best_of_n import BestOfN
from strategies.errors import EngineError, EngineUnavailable, InvalidParameter
from strategies.run import Outcome, run
from strategies.scorers.confidence import Logprob
from strategies.scorers.judge import Judge
from strategies.scorers.listwise_judge import ListwiseJudge
from strategies.seeds import derive
from strategies.self_consistency import SelfConsistency
from strategies.session import Session, Strategy
from strategies.stopping import Adaptive, AnyOf, Stop, Verified, Waves, Window, beta
from strategies.types import Batch, Call, Candidate, Chat, Decision, Delta, Round, Scorer, ScorerContext
from tests.strategies.support import CHAT, finished, gate, grades, says, session
from tests.strategies.support import engine as scripted

SEED = 7
ONE, TWO = "It is 1.", "It is 2."
EVEN = [*[ONE, TWO] * 7, TWO, ONE]
"""A vote that the last of sixteen samples may still turn."""


@dataclass(eq=False)
class Recorded:
    """An engine of recorded samples: sample i is the i-th text, as its seed says, whatever wave it is asked for in.

    Its words arrive one by one, of the sample that comes first in `ranks`, or in an order that `random` chooses; a
    text that ends with `!` fails there.
    """

    texts: Sequence[str]
    base: int
    random: Random = field(default_factory=lambda: Random(0))
    ranks: Sequence[int] | None = None
    calls: list[Call] = field(default_factory=list)
    generated: int = 0
    streams: int = 0
    ended: asyncio.Event | None = None  # set when a stream ends

    async def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        assert call.seed is not None
        self.calls.append(call)
        self.streams += 1
        first = call.seed - self.base
        left = {i: WORD.findall(self.texts[first + i])[: call.max_tokens] for i in range(call.n)}
        taken = dict.fromkeys(left, 0)
        prompt: int | None = 5 * call.n
        ranks = self.ranks
        try:
            while left:
                for _ in range(self.random.randrange(4)):
                    await asyncio.sleep(0)
                i = min(left, key=lambda i: ranks[first + i]) if ranks else self.random.choice([*left])
                word = left[i].pop(0)
                taken[i] += 1
                if word == " !":
                    raise EngineUnavailable("gone")
                finish = None if left[i] else "stop" if WORD.findall(self.texts[first + i])[-1] == word else "length"
                if finish:
                    del left[i]
                self.generated += 1
                yield Batch((Delta(i, word, taken[i], finish, raw={"content": word}),), prompt, 0)
                prompt = None
        finally:
            self.streams -= 1
            if self.ended:
                self.ended.set()


def recorded(strategy: Strategy, texts: Sequence[str], *, scorer: Scorer | None = None, **more: Any) -> Session:
    base = derive(SEED, strategy.type)
    assert base is not None
    budget = more.pop("budget", Budget())
    engine: Any = Recorded(texts, base, **more)
    return replace(session(says(""), seed=SEED, scorer=scorer, budget=budget), engine=engine)


def engine(on: Session) -> Recorded:
    assert isinstance(on.engine, Recorded)
    return on.engine


@dataclass(frozen=True, slots=True)
class Marked(Scorer):
    """The share of stars in a text, of five; `batches` keeps how many were scored at once."""

    batches: list[int] = field(default_factory=list)

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        await asyncio.sleep(0)
        self.batches.append(len(candidates))
        return [(candidate.text.count("*") / 5,) for candidate in candidates]


def voting(stop: Stop, samples: int = 16, **knobs: Any) -> SelfConsistency:
    return SelfConsistency(samples=samples, stop=stop, **knobs)


def outline(round_: Round) -> list[Any]:
    shown = [[(c.id, c.text, c.answer, c.group, c.score) for c in cs] for cs in (round_.candidates, round_.ranked)]
    return [*shown, round_.votes, round_.decision]


# What is decided


async def test_a_decided_vote_draws_no_further_wave() -> None:
    on = recorded(strategy := voting(Adaptive()), [ONE] * 16)
    outcome, rounds = await finished(strategy, on)
    assert outcome.stopped_by == "converged"
    assert outcome.round.decision == Decision("adaptive", 4, beta(4, 0))
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("1", 4)]
    assert ([call.n for call in engine(on).calls], len(rounds)) == ([4], 1)
    assert (on.saved, on.unused, on.cancelled) == (12, 0, 0)
    assert on.generated == engine(on).generated == 12


async def test_an_undecided_vote_draws_all_samples_in_growing_waves_with_a_round_for_each() -> None:
    on = recorded(strategy := voting(Adaptive(), 16), EVEN)
    outcome, rounds = await finished(strategy, on)
    assert outcome.stopped_by == "complete"
    assert outcome.round.decision is None
    assert [len(found.candidates) for found in rounds] == [4, 12, 16]
    assert [(call.n, (call.seed or 0) - engine(on).base) for call in engine(on).calls] == [(4, 0), (8, 4), (4, 12)]
    assert strategy.plan(1, 10, None).rounds == on.progress.rounds == 3
    assert (on.saved, on.unused) == (0, 0)
    assert (on.progress.votes, on.progress.confidence) == ((8, 8), 0.5)
    assert on.usage["policy"].prompt == 16 * 5
    assert on.prompt_tokens == 5


async def test_short_answers_that_arrive_first_do_not_win() -> None:
    long = "Let me think about it for a while. " * 5 + TWO
    texts = [long, ONE, ONE, ONE, long, ONE, long, long, *[long] * 4]
    on = recorded(strategy := voting(Adaptive(), 12, waves=Waves(start=12)), texts, ranks=[len(t) for t in texts])
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision is not None
    assert outcome.round.ranked[0].answer == "2"
    assert engine(on).generated == on.generated


async def test_what_still_runs_is_aborted_and_counted_to_the_token() -> None:
    """Samples 0 to 3 decide; 4 has finished before them, and 5 is in the making."""
    texts = [ONE, ONE, ONE, ONE, TWO, "word " * 500, *[TWO] * 10]
    ranks = [1, 1, 1, 2, 0, 3, *[4] * 10]
    on = recorded(strategy := voting(Adaptive(), waves=Waves(start=16)), texts, ranks=ranks)
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision == Decision("adaptive", 4, beta(4, 0))
    assert [c.id for c in outcome.round.candidates] == [0, 1, 2, 3], "what came too late neither votes nor is shown"
    assert engine(on).generated == on.generated < 100
    assert on.generated == 15 + on.cancelled
    assert (on.saved, on.unused) == (0, 12)
    assert engine(on).streams == on.progress.live == 0


async def test_a_unanimous_window_stops_and_the_majority_of_all_samples_wins() -> None:
    texts = [ONE, ONE, TWO, ONE, ONE, ONE, ONE, TWO, TWO, TWO, TWO, TWO, *[ONE] * 12]
    on = recorded(strategy := voting(Window(size=4), 24, waves=Waves(start=6)), texts)
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision == Decision("window", 12, beta(6, 6))
    assert outcome.round.ranked[0].answer == "1", "of equal votes the first answer wins, as without a rule"


async def test_the_first_of_several_rules_that_holds_is_named() -> None:
    on = recorded(strategy := voting(AnyOf(any=(Adaptive(), Window(size=3)))), [ONE] * 16)
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision == Decision("window", 3, beta(3, 0))


SAMPLED = st.sampled_from([ONE, ONE, "Well, it is 1.", TWO, "So 2", "3 *", "no idea", "4 * * * * *"])
TEXTS = st.lists(SAMPLED, min_size=10, max_size=10)
SCHEDULES = st.builds(Waves, start=st.integers(1, 10), growth=st.sampled_from([1.0, 1.5, 3.0]), cap=st.integers(1, 10))
TWICE_OR_WINDOW = AnyOf(any=(Verified(count=2), Window()))
STRATEGIES: dict[str, tuple[Any, bool]] = {
    "adaptive": (lambda waves: voting(Adaptive(confidence=0.8), 10, waves=waves), False),
    "window": (lambda waves: voting(Window(size=2), 10, waves=waves), False),
    "any": (lambda waves: voting(AnyOf(any=(Window(size=4), Adaptive())), 10, waves=waves), False),
    "verified": (lambda waves: BestOfN(samples=10, stop=Verified(), waves=waves), True),
    "best": (lambda waves: BestOfN(samples=10, stop=Adaptive(confidence=0.7), waves=waves), True),
    "weighted": (
        lambda waves: SelfConsistency(
            10, "weighted", "judge", stop=AnyOf(any=(Verified(count=2), Window())), waves=waves
        ),
        True,
    ),
}


@pytest.mark.parametrize(("strategy", "scored"), STRATEGIES.values(), ids=STRATEGIES)
@settings(max_examples=30)
@given(texts=TEXTS, orders=st.tuples(st.integers(), st.integers()), waves=st.tuples(SCHEDULES, SCHEDULES))
def test_neither_the_order_of_arrival_nor_the_sizes_of_the_waves_are_of_account(
    strategy: Any, scored: bool, texts: list[str], orders: tuple[int, int], waves: tuple[Waves, Waves]
) -> None:
    def outcome(order: int, waves: Waves) -> Outcome:
        on = recorded(strategy(waves), texts, random=Random(order), scorer=Marked() if scored else None)
        found = asyncio.run(finished(strategy(waves), on))[0]
        assert on.generated == engine(on).generated
        assert engine(on).streams == on.progress.live == 0
        return found

    one, other = map(outcome, orders, waves)
    assert outline(one.round) == outline(other.round)
    assert one.stopped_by == other.stopped_by


class Bridging:
    """A reader for whom 1 and 2 differ until it has seen 3, which is equal to both."""

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        return [candidate.text[-2] if candidate.complete else None for candidate in candidates]

    async def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        return [0 if "3" in answers or answer == "1" else 1 for answer in answers]


@pytest.mark.parametrize("ranks", [range(16), range(16, 0, -1)], ids=["forwards", "backwards"])
async def test_an_answer_that_proves_equal_to_two_counts_from_its_own_place_on(ranks: Sequence[int]) -> None:
    texts = [ONE, TWO, ONE, TWO, "It is 3.", *[TWO] * 11]
    on = recorded(strategy := voting(Adaptive(), waves=Waves(start=16)), texts, ranks=ranks)
    on.reader = Bridging()
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision == Decision("adaptive", 5, beta(5, 0))


# Scores


async def test_a_verified_answer_stops_and_what_has_finished_is_scored_at_once() -> None:
    texts = [ONE, ONE, ONE, "2 * * * * *", *[ONE] * 12]
    scorer = Marked()
    on = recorded(strategy := BestOfN(samples=16, stop=Verified()), texts, ranks=[9, 8, 7, 6, *[0] * 12], scorer=scorer)
    outcome, rounds = await finished(strategy, on)
    assert outcome.round.decision == Decision("verified", 4, 1.0)
    assert outcome.round.ranked[0].id == 3
    assert (scorer.batches, len(rounds)) == ([4], 1)
    assert on.saved == 12


async def test_a_vote_is_decided_only_where_the_scorer_agrees() -> None:
    texts = ["1 *", "2 * *", *[ONE] * 4, "1 * * *", *[ONE] * 5]
    on = recorded(strategy := BestOfN(samples=12, stop=Adaptive()), texts, scorer=Marked())
    outcome, _ = await finished(strategy, on)
    assert outcome.round.decision == Decision("adaptive", 7, beta(6, 1))
    assert outcome.round.ranked[0].id == 6


async def test_a_scorer_that_compares_all_samples_takes_no_rule() -> None:
    strategy = BestOfN(samples=8, scorer="listwise_judge", stop=Adaptive())
    on = recorded(strategy, [ONE] * 8, scorer=ListwiseJudge())
    for refused in (lambda: strategy.plan(1, 10, ListwiseJudge()), lambda: asyncio.run(finished(strategy, on))):
        with pytest.raises(InvalidParameter) as error:
            await asyncio.to_thread(refused)
        assert error.value.param == "strategy.stop"
    assert engine(on).calls == []


def judged(*replies: Reply | str) -> Any:
    """The replies, and a judge that likes all of them halfway."""
    return grades(says(*replies), lambda prompt: {"1": log(0.5), "5": log(0.5)} | dict.fromkeys("234", -1000.0))


async def test_tokens_of_scores_are_kept_for_every_wave() -> None:
    on = session(judged(ONE, TWO), scorer=Judge(), budget=Budget(tokens=60), interval=1)
    outcome, _ = await finished(BestOfN(samples=40, stop=Adaptive()), on)
    assert outcome.stopped_by == "tokens"
    assert outcome.round.decision is None
    assert all(candidate.score is not None for candidate in outcome.round.candidates)
    assert on.generated == scripted(on).generated <= 60 + 16


@dataclass(frozen=True, slots=True)
class Failing(Marked):
    """Fails at its second batch, or takes for ever."""

    error: EngineError | None = None

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        self.batches.append(len(candidates))
        if len(self.batches) < 2:
            return [(0.5,)] * len(candidates)
        if self.error:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


async def test_an_engine_that_fails_to_score_leaves_the_plain_vote_of_all_that_was_drawn() -> None:
    on = session(says(ONE, TWO, TWO), scorer=Failing(error=EngineUnavailable("the judge is gone")))
    outcome, rounds = await finished(BestOfN(samples=12, stop=Verified(), waves=Waves(start=3)), on)
    assert [len(found.candidates) for found in rounds] == [3, 9]
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("2", 6), ("1", 3)]
    assert outcome.round.ranked[0].answer == "2"
    assert on.failures == ["the judge is gone"]


@pytest.mark.usefixtures("leaping")
async def test_scores_that_the_deadline_cuts_leave_the_plain_vote() -> None:
    on = session(says(ONE, TWO, TWO), scorer=Failing(), budget=Budget(seconds=0.05))
    outcome, _ = await finished(BestOfN(samples=12, stop=Verified(), waves=Waves(start=3)), on)
    assert outcome.stopped_by == "seconds"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("2", 6), ("1", 3)]
    assert outcome.round.ranked[0].answer == "2"


# Budgets


async def test_a_budget_that_ends_in_mid_wave_has_all_that_finished_vote() -> None:
    texts = [ONE, ONE, ONE, TWO, "word " * 50, ONE, ONE, ONE, ONE, ONE, ONE, ONE]
    ranks = [0, 0, 0, 0, 5, 3, 1, 2, *[9] * 4]
    on = recorded(strategy := voting(Adaptive(), 12), texts, ranks=ranks, budget=Budget(tokens=23))
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    assert outcome.round.decision is None
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("1", 6), ("2", 1)]
    assert len(outcome.round.candidates) == 12
    assert on.generated == engine(on).generated == 23
    assert on.cancelled == 2
    assert (on.saved, on.unused) == (0, 0)


async def test_a_budget_that_ends_between_waves_keeps_the_last_round() -> None:
    on = recorded(strategy := voting(Adaptive(), 12), [ONE, TWO] * 6, budget=Budget(tokens=12))
    outcome, rounds = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    assert rounds == [outcome.round]
    assert [call.n for call in engine(on).calls] == [4]


@pytest.mark.parametrize("tokens", [1, 5, 11, 12, 13, 30, 47, 48, 400])
async def test_waves_keep_the_budget(tokens: int) -> None:
    on = recorded(strategy := voting(Window(size=16), 16), EVEN, budget=Budget(tokens=tokens))
    outcome, _ = await finished(strategy, on)
    assert on.generated == engine(on).generated == min(tokens, 48)
    assert outcome.stopped_by == ("complete" if tokens >= 48 else "tokens")


@pytest.mark.usefixtures("leaping")
async def test_at_the_deadline_the_finished_samples_vote() -> None:
    on = session(says("word " * 99, ONE, TWO, ONE), budget=Budget(seconds=0.05), pause=gate(2))
    outcome, _ = await finished(voting(Adaptive()), on)
    assert outcome.stopped_by == "seconds"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("1", 2), ("2", 1)]
    assert scripted(on).open_streams == on.progress.live == 0


@pytest.mark.usefixtures("leaping")
async def test_answers_that_were_read_still_vote_when_the_deadline_leaves_no_time_to_read_more() -> None:
    class Stuck(Bridging):
        async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
            if candidates[-1].id > 2:
                await asyncio.Event().wait()
            return await super().read(candidates)

    on = session(says(ONE, TWO, TWO), budget=Budget(seconds=0.05))
    on.reader = Stuck()
    outcome, _ = await finished(voting(Adaptive()), on)
    assert outcome.stopped_by == "seconds"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("2", 2), ("1", 1)]


@pytest.mark.usefixtures("leaping")
async def test_classes_that_are_known_stay_when_the_deadline_leaves_no_time_to_compare_more() -> None:
    class Stuck(Bridging):
        async def classes(self, answers: Sequence[str | None]) -> list[int | None]:
            if "9" in answers:
                await asyncio.Event().wait()
            return await super().classes(answers)

    texts = [ONE, "It is 3.", TWO, "It is 9."]
    on = session(says(*texts), budget=Budget(seconds=0.05))
    on.reader = Stuck()
    outcome, _ = await finished(voting(Window(size=16)), on)
    assert outcome.stopped_by == "seconds"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("1", 3), ("9", 1)]


@pytest.mark.usefixtures("leaping")
async def test_at_the_deadline_the_rest_is_read_at_once() -> None:
    class Slow(Bridging):
        async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
            await asyncio.sleep(0.05)
            return await super().read(candidates)

    said = ["word " * 99, *[ONE] * 39]
    on = session(says(*said), budget=Budget(seconds=0.05), pause=gate(2))
    on.reader = Slow()
    outcome, _ = await finished(voting(Adaptive(), 80, waves=Waves(start=40)), on)
    assert outcome.stopped_by == "seconds"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("1", 39)]


# Leaving, and faults


async def test_a_sample_that_failed_is_passed_over_and_the_next_wave_is_drawn() -> None:
    texts = [ONE, TWO, "So !", ONE, *[ONE] * 8]
    on = recorded(strategy := voting(Adaptive(), 12), texts, ranks=[0, 0, 1, 0, *[0] * 8])
    outcome, _ = await finished(strategy, on)
    assert [c.text for c in outcome.round.candidates] == [ONE, TWO, ONE, ONE, ONE, ONE, ONE]
    assert outcome.round.decision == Decision("adaptive", 7, beta(6, 1))
    assert (on.failed, on.failures, on.saved, on.unused) == (1, ["gone"], 0, 4)


async def test_an_engine_that_fails_in_a_later_wave_leaves_the_votes_of_those_before() -> None:
    on = recorded(strategy := voting(Adaptive(), 12), [ONE, TWO, ONE, TWO, *["So !"] * 8])
    outcome, rounds = await finished(strategy, on)
    assert rounds == [outcome.round]
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("1", 2), ("2", 2)]
    assert on.failures == ["gone"]


async def test_that_all_samples_failed_is_an_error() -> None:
    on = recorded(strategy := voting(Adaptive()), ["So !"] * 16)
    with pytest.raises(EngineUnavailable):
        await finished(strategy, on)


@pytest.mark.parametrize("events", [0, 3, 9])
async def test_cancelling_closes_the_stream(events: int) -> None:
    on = session(says("word " * 9 + "1", "word " * 5 + "2"), pause=gate(events), interval=1)
    task = asyncio.create_task(finished(voting(Adaptive()), on))
    for _ in range(100):
        await asyncio.sleep(0)
    assert scripted(on).open_streams == 1
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert scripted(on).open_streams == on.progress.live == 0
    assert on.generated == scripted(on).generated


async def test_closing_a_run_between_its_rounds_leaves_nothing_open() -> None:
    on = recorded(strategy := voting(Adaptive()), [ONE, TWO] * 8)
    async with aclosing(run(strategy, on)) as events:
        await anext(events)
    assert engine(on).streams == on.progress.live == 0


async def test_the_budget_holds_while_answers_are_read() -> None:
    """The stream is read on while the reader is busy, so that what it brings is counted and stopped in time."""
    released, ended = asyncio.Event(), asyncio.Event()

    class Busy(Bridging):
        async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
            await released.wait()
            return await super().read(candidates)

    on = recorded(strategy := voting(Adaptive(), 2), [ONE, "word " * 500], ranks=[0, 1], budget=Budget(tokens=50))
    on.reader = Busy()
    task = asyncio.create_task(finished(strategy, on))
    engine(on).ended = ended
    async with asyncio.timeout(30):
        await ended.wait()
    assert (on.generated, engine(on).streams) == (50, 0)
    released.set()
    outcome, _ = await task
    assert outcome.stopped_by == "tokens"


async def test_without_a_rule_there_are_no_waves_and_no_confidence() -> None:
    on = session(says(ONE), chat=CHAT, scorer=Logprob())
    await finished(SelfConsistency(samples=16, vote="weighted"), on)
    assert [call.n for _, call in scripted(on).calls] == [16]
    assert (on.progress.votes, on.progress.confidence) == (None, None)
