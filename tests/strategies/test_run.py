"""Budgets, faults, seeds, counts: what the driver promises for every strategy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engines.scripted import Reply, ScriptedEngine
from strategies import STRATEGIES
from strategies.accounting import Budget
from strategies.best_of_n import BestOfN
from strategies.chain_of_thought import ChainOfThought
from strategies.errors import BudgetSpent, DeadlineExceeded, EngineUnavailable, ScorerError
from strategies.mcts import MCTS
from strategies.run import Outcome, run
from strategies.scorers.confidence import Logprob
from strategies.scorers.generative import Generative
from strategies.scorers.judge import Judge
from strategies.self_consistency import SelfConsistency
from strategies.session import GRACE_SECONDS, Session, Strategy
from strategies.types import Batch, Call, Candidate, Chat, Delta, Event, Plan, Round, Scorer, ScorerContext
from tests.strategies.support import CHAT, engine, finished, gate, grades, says, session

LONG = " ".join(f"word{i}" for i in range(99)) + " so the answer is 42."
SIX = "Six times seven is 42. The answer is 42."
CASES: dict[str, tuple[Strategy, Scorer | None]] = {
    "chain_of_thought": (ChainOfThought(), None),
    "self_consistency": (SelfConsistency(samples=4), None),
    "weighted": (SelfConsistency(samples=4, vote="weighted"), Logprob()),
    "best_of_n": (BestOfN(samples=4), Judge()),
}
late = pytest.mark.usefixtures("leaping")
every_strategy = pytest.mark.parametrize(("strategy", "scorer"), CASES.values(), ids=CASES)


def branches(strategy: Strategy) -> int:
    return strategy.plan(1, 1, None).branches


def script(*replies: Reply | str) -> Any:
    """The replies, and grades for a judge that prefers the first."""
    return grades(says(*replies), lambda prompt: {"5": -0.1, "1": -9.0} if "word" in prompt else {"5": -9.0, "1": -0.1})


def test_every_strategy_is_among_the_cases() -> None:
    assert {strategy.type for strategy, _ in CASES.values()} <= set(STRATEGIES)


# Without a budget


@every_strategy
async def test_a_run_ends_complete_with_the_last_round(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(SIX), scorer=scorer)
    outcome, rounds = await finished(strategy, on)
    assert outcome.stopped_by == "complete"
    assert outcome.round == rounds[-1]
    assert on.progress.rounds == len(rounds) == (2 if scorer else 1)
    assert outcome.round.ranked[0].answer == "42"
    assert outcome.round.ranked[0].last.finish_reason == "stop"


@every_strategy
async def test_the_usage_is_the_engines_own_count(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(SIX, LONG), scorer=scorer)
    await finished(strategy, on)
    assert on.generated == engine(on).generated > 0
    assert on.cancelled == on.progress.live == 0
    assert on.progress.tokens == on.usage["policy"].completion
    assert on.progress.finished == branches(strategy)
    prompt = len(engine(on).ids("system: Be brief.\nuser: What is 6 * 7?"))
    if strategy.type != "chain_of_thought":  # which adds to the prompt
        assert on.prompt_tokens == prompt
        assert on.usage["policy"].prompt == branches(strategy) * prompt


@every_strategy
async def test_a_round_is_one_call(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(SIX), scorer=scorer)
    await finished(strategy, on)
    calls = 1 + isinstance(scorer, Judge)
    assert len(engine(on).calls) == calls
    assert on.usage["policy"].requests == 1
    assert on.usage["scorer"].requests == calls - 1
    assert engine(on).calls[0][1].n == branches(strategy)


@every_strategy
async def test_no_more_is_spent_than_planned(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(LONG), scorer=scorer)
    await finished(strategy, on)
    plan = strategy.plan(1, 104, scorer)
    assert on.usage["policy"].completion == plan.policy_tokens  # LONG has 104 words
    assert on.usage["scorer"].completion == plan.scorer_tokens


# Seeds


@every_strategy
async def test_the_same_seed_sends_the_same_seed(strategy: Strategy, scorer: Scorer | None) -> None:
    seeds = []
    for base in (1, 1, 2, None):
        on = session(script(SIX), scorer=scorer, seed=base)
        await finished(strategy, on)
        seeds.append(engine(on).calls[0][1].seed)
    first, again, other, none = seeds
    assert first == again
    assert none is None
    assert first is not None
    assert other is not None
    assert abs(first - other) > 1024  # vLLM gives sample i the seed + i


async def test_strategies_with_the_same_seed_do_not_share_their_samples() -> None:
    seeds = set()
    for strategy, scorer in CASES.values():
        on = session(script(SIX), scorer=scorer)
        await finished(strategy, on)
        seeds.add((strategy.type, engine(on).calls[0][1].seed))
    assert len({seed for _, seed in seeds}) == len({strategy.type for strategy, _ in CASES.values()})


# Tokens


@every_strategy
@pytest.mark.parametrize("tokens", [1, 5, 16, 64, 70, 110, 130, 400, 416])
@pytest.mark.parametrize("interval", [1, 16])
async def test_tokens_are_exceeded_by_one_event_of_each_live_branch_at_most(
    strategy: Strategy, scorer: Scorer | None, tokens: int, interval: int
) -> None:
    on = session(script(LONG, SIX), scorer=scorer, budget=Budget(tokens=tokens), interval=interval)
    outcome, _ = await finished(strategy, on)
    assert on.generated == engine(on).generated
    assert on.generated < tokens + branches(strategy) * interval
    assert engine(on).open_streams == 0
    if outcome.stopped_by == "complete":
        assert all(candidate.complete for candidate in outcome.round.candidates)
    else:
        assert outcome.stopped_by == "tokens"


@every_strategy
async def test_cut_by_tokens_the_best_so_far_says_length(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(LONG), scorer=scorer, budget=Budget(tokens=40), interval=4)
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    winner = outcome.round.ranked[0]
    assert winner.last.finish_reason == "length"
    assert LONG.startswith(winner.text)
    assert winner.text
    assert outcome.round.votes == ()
    assert on.cancelled == on.usage["policy"].completion


async def test_a_finished_answer_is_better_than_a_cut_one() -> None:
    on = session(script(LONG, SIX), budget=Budget(tokens=120))
    outcome, _ = await finished(SelfConsistency(samples=4), on)
    assert outcome.stopped_by == "tokens"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("42", 2)]
    assert outcome.round.ranked[0].id == 1
    assert outcome.round.ranked[0].complete


async def test_the_engine_itself_keeps_a_branch_within_the_budget() -> None:
    """A service that is too busy to stop it finds no more tokens than the budget has, in whatever pieces they come."""
    on = session(says(LONG), chat=replace(CHAT, fields={"max_tokens": 60}), budget=Budget(tokens=20), interval=1000)
    outcome, _ = await finished(ChainOfThought(), on)
    assert (outcome.stopped_by, on.generated) == ("tokens", 20)
    assert outcome.round.ranked[0].last.finish_reason == "length"


@pytest.mark.parametrize("tokens", [60, 61])
async def test_an_answer_that_ends_at_its_own_limit_is_not_cut_by_the_budget(tokens: int) -> None:
    on = session(says(LONG), chat=replace(CHAT, fields={"max_tokens": 60}), budget=Budget(tokens=tokens))
    outcome, _ = await finished(ChainOfThought(), on)
    assert (outcome.stopped_by, on.generated) == ("complete", 60)


async def test_min_tokens_stay_below_what_the_engine_is_allowed() -> None:
    chat = replace(CHAT, fields={"max_tokens": 60, "min_tokens": 30})
    on = session(says(LONG), chat=chat, budget=Budget(tokens=20))
    await finished(SelfConsistency(samples=2), on)
    [(_, call)] = engine(on).calls
    assert call.max_tokens == 30, "vLLM refuses min_tokens above max_tokens"


async def test_a_budget_of_exactly_the_answer_cuts_nothing() -> None:
    on = session(says(SIX), budget=Budget(tokens=9), interval=1)
    outcome, _ = await finished(ChainOfThought(), on)
    assert on.generated == 9
    assert outcome.stopped_by == "complete"
    assert outcome.round.ranked[0].complete


@pytest.mark.parametrize("interval", [1, 16])
async def test_what_is_reserved_for_scoring_is_kept(interval: int) -> None:
    on = session(script(LONG, SIX), scorer=Judge(), budget=Budget(tokens=104), interval=interval)
    outcome, rounds = await finished(BestOfN(samples=4), on)
    assert outcome.stopped_by == "tokens"
    assert len(rounds) == 2
    assert on.usage["scorer"].completion == 4
    assert all(candidate.score is not None for candidate in outcome.round.candidates)
    assert 100 <= on.usage["policy"].completion < 100 + 4 * interval


async def test_scores_that_cost_nothing_are_had_with_a_spent_budget() -> None:
    on = session(says(LONG, SIX), scorer=Logprob(), budget=Budget(tokens=100))
    outcome, _ = await finished(SelfConsistency(samples=2, vote="weighted"), on)
    assert outcome.stopped_by == "tokens"
    assert all(candidate.score is not None for candidate in outcome.round.candidates)


async def test_scoring_that_the_budget_cuts_falls_back_to_the_plain_vote() -> None:
    judged = grades(says("The answer is 1.", "The answer is 2.", "The answer is 2."), lambda prompt: {"5": -0.1})
    spendthrift = session(judged, scorer=Unplanned(), budget=Budget(tokens=13), interval=1)
    outcome, rounds = await finished(BestOfN(samples=3), spendthrift)
    assert outcome.stopped_by == "tokens"
    assert outcome.round == rounds[0]
    assert outcome.round.ranked[0].answer == "2"
    assert outcome.round.ranked[0].score is None
    assert spendthrift.generated == engine(spendthrift).generated <= 13 + 3
    assert engine(spendthrift).open_streams == 0


@dataclass(frozen=True, slots=True)
class Unplanned(Scorer):
    """A scorer that spends more than it says: three words a candidate."""

    def tokens(self, judgements: int) -> int:
        return 1

    async def score(self, on: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        prefixes = [await on.engine.tokenize(candidate.text) for candidate in candidates]
        verdicts = await on.ask(on.engine, prefixes, Call())
        return [(float(verdict.tokens),) for verdict in verdicts]


# Seconds


@late
@every_strategy
async def test_at_the_deadline_the_best_so_far_says_length(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(LONG), scorer=scorer, budget=Budget(seconds=0.05), pause=gate(3))
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "seconds"
    assert outcome.round.ranked[0].last.finish_reason == "length"
    assert outcome.round.ranked[0].tokens == (3 if strategy.type == "chain_of_thought" else 48)
    assert engine(on).open_streams == 0
    assert on.generated == engine(on).generated
    assert on.progress.live == 0


@late
async def test_at_the_deadline_the_finished_branches_vote() -> None:
    on = session(script(LONG, SIX), budget=Budget(seconds=0.05), pause=gate(2))
    outcome, _ = await finished(SelfConsistency(samples=4), on)
    assert outcome.stopped_by == "seconds"
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("42", 2)]


@late
async def test_scoring_that_the_deadline_cuts_falls_back_to_the_plain_vote() -> None:
    on = session(script(SIX), scorer=Judge(), budget=Budget(seconds=0.05), pause=gate(1))
    outcome, rounds = await finished(BestOfN(samples=4), on)
    assert outcome.stopped_by == "seconds"
    assert [outcome.round] == rounds
    assert outcome.round.ranked[0].answer == "42"
    assert engine(on).open_streams == 0


@late
async def test_a_scorer_that_never_answers_is_cut_at_the_deadline() -> None:
    class Silent(Logprob):
        async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
            await asyncio.Event().wait()
            raise AssertionError

    on = session(script(SIX), scorer=Silent(), budget=Budget(seconds=0.05))
    outcome, rounds = await finished(BestOfN(samples=2), on)
    assert outcome.stopped_by == "seconds"
    assert len(rounds) == 1


@dataclass(frozen=True, slots=True)
class Slow:
    """A reader that reads, or compares, for ever."""

    read_for_ever: bool

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        if self.read_for_ever:
            await asyncio.Event().wait()
        return [str(candidate.id % 2) for candidate in candidates]

    async def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        await asyncio.Event().wait()
        raise AssertionError


@late
@every_strategy
@pytest.mark.parametrize("read_for_ever", [False, True])
async def test_reading_and_comparing_end_with_the_seconds(
    strategy: Strategy, scorer: Scorer | None, read_for_ever: bool
) -> None:
    on = session(script(SIX), scorer=scorer, budget=Budget(seconds=0.05))
    on.reader = Slow(read_for_ever)
    async with asyncio.timeout(0.05 + GRACE_SECONDS + 0.2):
        outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "seconds"
    assert outcome.round.ranked[0].complete
    votes = [] if read_for_ever else sorted({str(candidate.id % 2) for candidate in outcome.round.candidates})
    assert [vote.answer for vote in outcome.round.votes] == votes, "read but not compared: spelled alike is equal"
    assert on.notes


@late
@pytest.mark.parametrize("slow", ["render", "context"])
async def test_a_tokenizer_that_never_answers_ends_with_the_seconds(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ScriptedEngine, slow, never)
    on = session(script(SIX), scorer=Generative(), budget=Budget(seconds=0.05))
    async with asyncio.timeout(0.3):
        with pytest.raises(DeadlineExceeded):
            await finished(MCTS(), on)


@every_strategy
@pytest.mark.parametrize("budget", [Budget(tokens=0), Budget(seconds=0)])
async def test_a_budget_of_nothing_calls_nobody_and_is_an_error(
    strategy: Strategy, scorer: Scorer | None, budget: Budget
) -> None:
    on = session(script(SIX), scorer=scorer, budget=budget)
    with pytest.raises(DeadlineExceeded):
        await finished(strategy, on)
    assert engine(on).generated == on.generated == 0
    assert on.usage["policy"].requests == 0


@late
@every_strategy
async def test_a_deadline_before_the_first_token_is_an_error(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(SIX), scorer=scorer, budget=Budget(seconds=0.02), pause=gate(0))
    with pytest.raises(DeadlineExceeded):
        await finished(strategy, on)
    assert engine(on).open_streams == 0


# Faults


async def test_failed_branches_are_reported_and_the_rest_go_on() -> None:
    lost = Reply("This one never", error=EngineUnavailable("the replica is gone"))
    on = session(says(SIX, lost, "The answer is 41.", SIX))
    outcome, _ = await finished(SelfConsistency(samples=4), on)
    assert on.failed == 1
    assert on.failures == ["the replica is gone"]
    assert len(outcome.round.candidates) == 3
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("42", 2), ("41", 1)]
    assert outcome.stopped_by == "complete"
    assert on.generated == engine(on).generated
    assert engine(on).open_streams == on.progress.live == 0


@every_strategy
async def test_that_all_branches_failed_is_an_error(strategy: Strategy, scorer: Scorer | None) -> None:
    on = session(script(Reply("Then", error=EngineUnavailable("gone"))), scorer=scorer)
    with pytest.raises(EngineUnavailable, match="gone"):
        await finished(strategy, on)
    assert engine(on).open_streams == on.progress.live == 0


async def test_a_fault_that_lost_branches_of_one_round_takes_none_from_the_next() -> None:
    replies: Iterator[Reply | str] = iter([SIX, Reply("This", error=EngineUnavailable("gone")), LONG, LONG])
    on = session(lambda prompt, index: next(replies), budget=Budget(tokens=40))
    assert len(await on.sample(Call(2))) == 1
    assert [c.last.finish_reason for c in await on.sample(Call(2))] == ["length", "length"]


async def test_grades_lost_to_a_fault_leave_the_plain_vote() -> None:
    def judged(prompt: str, index: int) -> Reply | str:
        if "Reply with" not in prompt:
            return SIX
        return Reply("1", labels={"5": -0.1}, error=EngineUnavailable("gone") if index else None)

    on = session(judged, scorer=Judge())
    outcome, rounds = await finished(BestOfN(samples=2), on)
    assert outcome.round == rounds[0]
    assert on.failures == ["gone"]


@pytest.mark.parametrize("scores", [[], [(0.5,)], [(0.5,), ()], [(0.5,), (0.5,), (0.5,)]])
async def test_not_one_score_for_each_candidate_is_an_error(scores: list[tuple[float, ...]]) -> None:
    class Miscounting(Logprob):
        async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
            return scores

    with pytest.raises(ScorerError):
        await finished(BestOfN(samples=2), session(script(SIX), scorer=Miscounting()))


# Leaving


async def test_closing_a_run_closes_its_stream_at_once() -> None:
    on = session(says(LONG))
    async with aclosing(run(ChainOfThought(), on)) as events:
        assert isinstance(await anext(events), Batch)
        assert engine(on).open_streams == 1
    assert engine(on).open_streams == 0
    assert on.cancelled == on.generated == 1
    assert on.progress.live == 0


@every_strategy
async def test_cancelling_a_run_closes_its_stream_at_once(strategy: Strategy, scorer: Scorer | None) -> None:
    waiting = asyncio.Event()

    async def pause() -> None:
        waiting.set()
        await asyncio.Event().wait()

    on = session(script(LONG), scorer=scorer, pause=pause)
    task = asyncio.create_task(finished(strategy, on))
    await waiting.wait()
    assert engine(on).open_streams == 1
    assert on.progress.live == branches(strategy)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert engine(on).open_streams == on.progress.live == 0


# The end


@dataclass(frozen=True, slots=True)
class Rounds(Strategy):
    """A strategy of given rounds, which then ends, or finds the budget spent."""

    rounds: tuple[Round, ...]
    spent: bool = False
    type: ClassVar[str] = "rounds"
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        return Plan(len(self.rounds), 1, 1)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        for found in self.rounds:
            yield found
        if self.spent:
            session.stopped = "tokens"
            raise BudgetSpent("no more")


async def a_round(converged: bool = False) -> Round:
    answers = tuple(await session(says(SIX)).sample(Call()))
    return Round(answers, answers, converged=converged)


async def test_a_converged_round_says_so() -> None:
    outcome, _ = await finished(Rounds((await a_round(), await a_round(converged=True))), session(says(SIX)))
    assert outcome.stopped_by == "converged"


async def test_a_budget_that_ended_is_the_reason_even_when_converged() -> None:
    outcome, _ = await finished(Rounds((await a_round(converged=True),), spent=True), session(says(SIX)))
    assert outcome.stopped_by == "tokens"


async def test_a_run_without_a_round_is_an_error() -> None:
    with pytest.raises(DeadlineExceeded):
        await finished(Rounds(()), session(says(SIX)))


class Broken(Rounds):
    """Its rounds, and then an engine that fails."""

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        await session.sample(Call())
        for found in self.rounds:
            yield found
        raise EngineUnavailable("broken")


async def test_an_engine_that_fails_later_leaves_the_answer_that_there_is_and_is_reported() -> None:
    on = session(says(SIX))
    outcome, rounds = await finished(Broken((await a_round(),)), on)
    assert [outcome.round] == rounds
    assert on.failures == ["broken"]


async def test_an_engine_that_fails_with_no_whole_answer_in_hand_is_an_error_that_is_not_billed_twice() -> None:
    cut_off = await finished(ChainOfThought(), session(says(LONG), budget=Budget(tokens=5)))
    for rounds in ((), (cut_off[0].round,)):
        with pytest.raises(EngineUnavailable, match="broken") as caught:
            await finished(Broken(rounds), session(says(SIX)))
        assert caught.value.generated, "tokens were spent in an earlier round"


async def test_candidates_are_numbered_on_from_call_to_call() -> None:
    on = session(says(SIX))
    assert [c.id for c in [*await on.sample(Call(2)), *await on.sample(Call(3))]] == [0, 1, 2, 3, 4]


# Arrival


@dataclass(slots=True)
class Shuffled:
    """An engine whose branches come in pieces, in the order of `places`: the branches of the pieces to come."""

    texts: Sequence[str]
    places: Sequence[int]

    async def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        left = {i: text.split(" ") for i, text in enumerate(self.texts)}
        taken = dict.fromkeys(left, 0)
        for i in self.places:
            word = " " * bool(taken[i]) + left[i].pop(0)
            taken[i] += 1
            yield Batch((Delta(i, word, taken[i], None if left[i] else "stop"),))


@settings(max_examples=50)
@given(st.data())
def test_the_order_in_which_tokens_arrive_is_of_no_account(data: st.DataObject) -> None:
    texts = ["The answer is 1.", "It is 2.", "The answer is 2.", "So: 1", "3"]
    pieces = [i for i, text in enumerate(texts) for _ in text.split(" ")]

    def outcome(places: Sequence[int]) -> Outcome:
        on = replace(session(says("")), engine=Shuffled(texts, places))  # type: ignore[arg-type]
        return asyncio.run(finished(SelfConsistency(samples=len(texts)), on))[0]

    assert outcome(data.draw(st.permutations(pieces))) == outcome(pieces)


# Pieces of messages


async def test_pieces_of_tool_calls_and_of_reasoning_are_joined() -> None:
    on = session(says(""))
    raws: list[dict[str, Any]] = [
        {"reasoning": "Let me "},
        {"reasoning_content": "see."},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]},
    ]

    class Pieces:
        async def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
            for number, raw in enumerate(raws):
                last = number == len(raws) - 1
                yield Batch((Delta(0, "", number + 1, "tool_calls" if last else None, raw=raw),))

    [made] = await replace(on, engine=Pieces()).sample(Call())  # type: ignore[arg-type]
    assert made.last.message == {
        "role": "assistant",
        "content": None,
        "reasoning": "Let me see.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert made.tokens == 5


def test_the_conversation_is_sent_as_it_came() -> None:
    assert CHAT.question == "What is 6 * 7?"
    assert CHAT.transcript == "What is 6 * 7?"
