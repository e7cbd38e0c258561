"""What the contract promises of every strategy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count, pairwise
from random import Random
from typing import Any

import pytest

from service.engines.scripted import Reply, Script, ScriptedEngine
from strategies import STRATEGIES
from strategies.accounting import Budget
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.chain_of_thought import ChainOfThought
from strategies.errors import EngineUnavailable, ScorerError
from strategies.mcts import MCTS
from strategies.particle_filter import ParticleFilter
from strategies.run import run
from strategies.scorers.generative import Generative
from strategies.scorers.judge import Judge
from strategies.self_consistency import SelfConsistency
from strategies.session import Session, Strategy
from strategies.types import Batch, Call, Candidate, Chat, Scorer, ScorerContext
from tests.strategies.support import CHAT, engine, finished, gate, grown, reviews, session, turn

SINGLE: dict[str, tuple[Strategy, Scorer | None]] = {
    "chain_of_thought": (ChainOfThought(), None),
    "self_consistency": (SelfConsistency(samples=4), None),
    "best_of_n": (BestOfN(samples=4), Judge()),
}
SEARCHES: dict[str, tuple[Strategy, Scorer | None]] = {
    "beam_search": (BeamSearch(beams=8, width=4, max_steps=6), Generative()),
    "dvts": (BeamSearch(beams=8, width=4, trees=2, max_steps=6), Generative()),
    "lookahead": (BeamSearch(beams=4, width=2, lookahead=2, max_steps=6), Generative()),
    "particle_filter": (ParticleFilter(particles=8, max_steps=6), Generative()),
    "mcts": (MCTS(iterations=8, width=3, wave=3, max_steps=6), Generative()),
    "rollouts": (MCTS(iterations=6, width=3, wave=2, max_steps=6, value="rollout"), Generative()),
}
CASES = SINGLE | SEARCHES
every_strategy = pytest.mark.parametrize(("strategy", "scorer"), CASES.values(), ids=CASES)
every_search = pytest.mark.parametrize(("strategy", "scorer"), SEARCHES.values(), ids=SEARCHES)

DEPTH = 3


def number(text: str) -> int:
    return blake2b(text.encode(), digest_size=1).digest()[0]


def policy(prompt: str, index: int) -> Reply | str:
    """Three steps of one of five kinds, of different lengths, and an answer that depends on them."""
    path, said = grown(prompt), ""
    while (depth := (path + said).count("\n\n")) < DEPTH:
        kind = number(f"{path}{said}{index}") % 5
        said += f"Step {depth} of kind {kind}" + " and" * kind + ".\n\n"
    return f"{said}So the answer is {number(path + said) % 3}."


def outright(prompt: str, index: int) -> Reply | str:
    """An answer at once, and the grade of one."""
    if "Reply with" in prompt:
        return Reply("1", labels={"5": -number(prompt) / 99, "1": -1.0})
    return "Well, " + "hm, " * (number(f"{prompt}{index}") % 40) + f"the answer is {index % 3}."


def whim(solution: str) -> float:
    return number(solution) / 256


def on_script(strategy: Strategy, scorer: Scorer | None, script: Script | None = None, **more: Any) -> Session:
    script = script or reviews(outright if (strategy, scorer) in SINGLE.values() else policy, whim)
    return session(script, scorer=scorer, **{"pause": turn, **more})


def test_every_strategy_is_among_the_cases() -> None:
    assert {strategy.type for strategy, _ in CASES.values()} == set(STRATEGIES)


# Batches


@dataclass(slots=True)
class Logged(ScriptedEngine):
    """Keeps, for every stream that starts, whose it is, how many are open and how many ended in this round."""

    starts: list[tuple[str, int]] = field(default_factory=list)
    ended: int = 0

    async def stream(self, prompts: Sequence[str], call: Call) -> AsyncGenerator[Batch]:
        if not self.open_streams:
            self.ended = 0
            self.starts.append(("scorer" if call.label_ids else "policy", 0))
        assert self.ended == 0, "a call began when another of its round had ended"
        self.starts[-1] = (self.starts[-1][0], self.starts[-1][1] + 1)
        async with aclosing(ScriptedEngine.stream(self, prompts, call)) as batches:
            async for batch in batches:
                yield batch
        self.ended += 1


@every_strategy
async def test_everything_of_a_round_is_sent_at_once(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer)
    logged = Logged(engine(on).script, turn, interval=2)
    on = replace(on, engine=logged)
    _, rounds = await finished(strategy, on)
    assert sum(calls for _, calls in logged.starts) == len(logged.calls)
    scorings = [calls for who, calls in logged.starts if who == "scorer"]
    assert all(calls == 1 for calls in scorings)
    if isinstance(scorer, Generative):
        assert len(scorings) in (len(rounds), len(rounds) - 1)
    if strategy in (CASES["mcts"][0], CASES["beam_search"][0], CASES["particle_filter"][0]):
        assert [who for who, _ in logged.starts] == ["policy", "scorer"] * len(scorings)


@every_strategy
@pytest.mark.parametrize("order", range(5))
async def test_the_order_of_arrival_is_of_no_account(strategy: Strategy, scorer: Scorer | None, order: int) -> None:
    random = Random(order)

    async def pause() -> None:
        for _ in range(random.randrange(9)):
            await asyncio.sleep(0)

    expected = await finished(strategy, on_script(strategy, scorer))
    shuffled = on_script(strategy, scorer, pause=pause, interval=1 + order)
    outcome, _ = await finished(strategy, shuffled)
    assert outline(outcome.round.candidates) == outline(expected[0].round.candidates)
    assert outline(outcome.round.ranked) == outline(expected[0].round.ranked)
    assert outcome.round.votes == expected[0].round.votes


def outline(candidates: Sequence[Candidate]) -> list[Any]:
    return [(c.id, c.parent, c.text, c.scores, c.score, c.answer, c.group, c.last.finish_reason) for c in candidates]


# Seeds


@every_strategy
async def test_the_same_seed_sends_the_same_seeds(strategy: Strategy, scorer: Scorer | None) -> None:
    runs = []
    for seed in (1, 1, 2):
        on = on_script(strategy, scorer, seed=seed)
        outcome, _ = await finished(strategy, on)
        runs.append(([call.seed for _, call in engine(on).calls], outcome.round))
    (first, found), (again, repeated), (other, _) = runs
    assert first == again
    assert found == repeated
    sampled = [seed for seed in first if seed is not None]
    assert len(set(sampled)) == len(sampled)
    assert not {*sampled} & {*other}
    near = sorted(sampled)
    assert all(b - a > 1024 for a, b in pairwise(near))  # vLLM gives sample i the seed + i


@every_strategy
async def test_without_a_seed_none_is_sent(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer, seed=None)
    await finished(strategy, on)
    assert {call.seed for _, call in engine(on).calls} == {None}


# Counts


@every_strategy
async def test_the_usage_is_the_engines_own_count(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer)
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "complete"
    assert on.generated == engine(on).generated > 0
    assert on.cancelled == on.progress.live == engine(on).open_streams == 0
    assert on.usage["policy"].requests + on.usage["scorer"].requests == len(engine(on).calls)
    assert outcome.round.ranked[0].answer in {"0", "1", "2"}


@every_search
async def test_a_path_reads_as_its_ids_do(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer)
    outcome, _ = await finished(strategy, on)
    assert on.tree
    for path in [*on.tree.values(), *outcome.round.ranked]:
        assert path.text == await on.engine.detokenize(path.ids)
        assert path.tokens == len(path.ids)
        assert path.parent is None or path.parent in on.tree
    assert all(path.complete for path in outcome.round.ranked)
    assert len({path.id for path in outcome.round.candidates}) == len(outcome.round.candidates)


@every_search
async def test_scores_that_are_all_equal_break_nothing(strategy: Strategy, scorer: Scorer | None) -> None:
    outcome, _ = await finished(strategy, on_script(strategy, scorer, reviews(policy, lambda solution: 0.5)))
    assert outcome.round.ranked[0].complete


@every_search
@pytest.mark.parametrize("scores", [(0.0,), (1.0,), (0.0, 1.0), (-3.0, 7.0), (1e300, -1e300)])
async def test_hostile_scores_break_nothing(
    strategy: Strategy, scorer: Scorer | None, scores: tuple[float, ...]
) -> None:
    outcome, _ = await finished(strategy, on_script(strategy, Fixed(scores)))
    assert outcome.stopped_by == "complete"
    assert outcome.round.ranked[0].complete


@every_search
@pytest.mark.parametrize("score", [float("nan"), float("inf")])
async def test_a_score_that_is_no_number_is_an_error(strategy: Strategy, scorer: Scorer | None, score: float) -> None:
    on = on_script(strategy, Fixed((0.5, score)))
    with pytest.raises(ScorerError):
        await finished(strategy, on)
    assert engine(on).open_streams == 0


@dataclass(frozen=True, slots=True)
class Fixed(Scorer):
    """Scores round and round, whatever it is shown: one for all steps."""

    scores: tuple[float, ...]

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        return [(self.scores[i % len(self.scores)],) for i in range(len(candidates))]


@every_search
async def test_paths_that_never_end_are_run_out_at_the_last_step(strategy: Strategy, scorer: Scorer | None) -> None:
    """The last step has no delimiter: what the model says there goes on to `max_tokens`."""
    chat = replace(CHAT, fields={"max_tokens": 60})
    endless = reviews(lambda prompt, index: f"on {index}\n\n" + "and on\n\n" * 99, whim)
    on = on_script(strategy, scorer, endless, chat=chat)
    outcome, rounds = await finished(strategy, on)
    assert len(rounds) <= strategy.plan(1, 60, scorer).rounds + 1
    assert all(path.tokens <= 60 and len(path.steps) <= 6 for path in outcome.round.candidates)
    assert outcome.round.ranked[0].last.finish_reason == "length"
    assert outcome.round.votes == ()


@every_search
@pytest.mark.parametrize("limit", [1, 2, 7, 13, 20])
async def test_max_tokens_bounds_a_whole_path(strategy: Strategy, scorer: Scorer | None, limit: int) -> None:
    on = on_script(strategy, scorer, chat=replace(CHAT, fields={"max_tokens": limit}))
    outcome, _ = await finished(strategy, on)
    for path in [*on.tree.values(), *outcome.round.candidates]:
        assert path.tokens <= limit
        assert path.complete == path.text.endswith(("is 0.", "is 1.", "is 2."))


@every_search
async def test_the_callers_stop_ends_the_answer_and_is_no_part_of_it(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer, chat=replace(CHAT, fields={"stop": [" answer"]}))
    outcome, _ = await finished(strategy, on)
    assert outcome.round.ranked[0].text.endswith("So the")
    assert outcome.round.ranked[0].complete
    assert not any("answer" in path.text for path in on.tree.values())


# Budgets


@every_strategy
@pytest.mark.parametrize("tokens", [1, 5, 16, 64, 100, 130, 200, 400])
@pytest.mark.parametrize("interval", [1, 16])
async def test_tokens_are_exceeded_by_one_event_of_each_live_branch_at_most(
    strategy: Strategy, scorer: Scorer | None, tokens: int, interval: int
) -> None:
    on = on_script(strategy, scorer, budget=Budget(tokens=tokens), interval=interval)
    outcome, _ = await finished(strategy, on)
    assert on.generated == engine(on).generated
    live = strategy.plan(1, 1, None).branches + 1  # and the path that is completed
    assert on.generated < tokens + live * interval
    assert engine(on).open_streams == on.progress.live == 0
    assert outcome.round.ranked[0].text
    if outcome.stopped_by == "complete":
        assert outcome.round.ranked[0].complete
    else:
        assert outcome.stopped_by == "tokens"
        complete = outcome.round.ranked[0].text.endswith(("is 0.", "is 1.", "is 2."))
        assert outcome.round.ranked[0].last.finish_reason == ("stop" if complete else "length")


@every_search
async def test_cut_in_mid_search_the_best_path_is_completed(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer, budget=Budget(tokens=140), interval=1)
    outcome, rounds = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    winner = outcome.round.ranked[0]
    assert winner.last.finish_reason == "stop"
    assert winner.answer is not None
    assert outcome.round == rounds[-1]


@every_search
async def test_what_cannot_be_completed_is_said_to_be_cut(strategy: Strategy, scorer: Scorer | None) -> None:
    endless = reviews(lambda prompt, index: f"step {index}\n\n" * (not grown(prompt)) + "on " * 999, whim)
    on = on_script(strategy, scorer, endless, budget=Budget(tokens=200), interval=1)
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "tokens"
    winner = outcome.round.ranked[0]
    assert winner.last.finish_reason == "length"
    assert winner.id == max(path.id for path in outcome.round.ranked)  # the one that was continued last
    assert {path.last.finish_reason for path in outcome.round.candidates} == {"length"}


@pytest.mark.usefixtures("leaping")
@every_search
@pytest.mark.parametrize("events", [10, 30, 50])
async def test_at_the_deadline_the_best_so_far_is_returned(
    strategy: Strategy, scorer: Scorer | None, events: int
) -> None:
    on = on_script(strategy, scorer, budget=Budget(seconds=0.1), pause=gate(events), interval=1)
    outcome, _ = await finished(strategy, on)
    assert outcome.stopped_by == "seconds"
    assert outcome.round.ranked[0].tokens
    assert outcome.round.ranked[0].last.finish_reason in ("stop", "length")
    assert engine(on).open_streams == on.progress.live == 0
    assert on.generated == engine(on).generated


# Leaving, and faults


@every_strategy
@pytest.mark.parametrize("events", [0, 5, 9])
async def test_cancelling_a_run_closes_all_streams(strategy: Strategy, scorer: Scorer | None, events: int) -> None:
    on = on_script(strategy, scorer, pause=gate(events), interval=1)
    task = asyncio.create_task(finished(strategy, on))
    for _ in range(200):
        await asyncio.sleep(0)
    assert engine(on).open_streams > 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert engine(on).open_streams == on.progress.live == 0
    assert on.generated == engine(on).generated


@every_strategy
async def test_closing_a_run_between_its_rounds_leaves_nothing_open(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer)
    async with aclosing(run(strategy, on)) as events:
        await anext(events)
    assert engine(on).open_streams == on.progress.live == 0


@every_search
async def test_a_failed_branch_is_reported_and_the_rest_go_on(strategy: Strategy, scorer: Scorer | None) -> None:
    turns = count()

    def failing(prompt: str, index: int) -> Reply | str:
        said = policy(prompt, index)
        assert isinstance(said, str)
        bad = next(turns) % 6 == 5
        return Reply("This one", error=EngineUnavailable("gone")) if bad else said

    on = on_script(strategy, scorer, reviews(failing, whim))
    outcome, _ = await finished(strategy, on)
    assert outcome.round.ranked[0].complete
    assert on.failed
    assert {*on.failures} == {"gone"}
    assert on.generated == engine(on).generated
    assert engine(on).open_streams == on.progress.live == 0
    assert not any("This one" in path.text for path in on.tree.values())


@every_search
async def test_that_all_branches_failed_is_an_error(strategy: Strategy, scorer: Scorer | None) -> None:
    on = on_script(strategy, scorer, lambda prompt, index: Reply("Then", error=EngineUnavailable("gone")))
    with pytest.raises(EngineUnavailable):
        await finished(strategy, on)
    assert engine(on).open_streams == on.progress.live == 0


# A perfect scorer

RIGHT = "b\n\na\n\nc\n\nThe answer is 42."


def maze(prompt: str, index: int) -> Reply | str:
    """Three steps of three kinds each; one of the 27 ways is right."""
    path = grown(prompt)
    said = f"{'abc'[index % 3]}\n\n" * (DEPTH - path.count("\n\n"))
    return said + ("The answer is 42." if RIGHT.startswith(path + said) else "The answer is 13.")


@pytest.mark.parametrize(
    "strategy",
    [
        BeamSearch(beams=9, width=3),
        BeamSearch(beams=3, width=3, lookahead=1),
        MCTS(iterations=9, width=3, wave=1),
        MCTS(iterations=12, width=3, wave=3),
    ],
    ids=repr,
)
async def test_a_perfect_scorer_finds_the_one_right_path(strategy: Strategy) -> None:
    perfect = reviews(maze, lambda solution: 0.99 if RIGHT.startswith(solution) else 0.01)
    outcome, _ = await finished(strategy, on_script(strategy, Generative(), perfect))
    assert outcome.round.ranked[0].text == RIGHT


async def test_a_perfect_scorer_leads_the_particles_to_the_one_right_path() -> None:
    """A particle's request is for one sample, so that the seed has to say which."""
    strategy = ParticleFilter(particles=27, threshold=1.0)
    perfect = reviews(seeded, lambda s: 0.99 if RIGHT.startswith(s) else 0.01)
    on = replace(on_script(strategy, Generative()), engine=Seeded(perfect, turn))
    outcome, _ = await finished(strategy, on)
    assert outcome.round.ranked[0].text == RIGHT


@dataclass(slots=True)
class Seeded(ScriptedEngine):
    """Shows the script the seed of a continuation, before the prompt."""

    def extend(self, prefixes: Sequence[tuple[int, ...]], call: Call) -> AsyncGenerator[Batch]:
        self.calls.append((prefixes, call))
        return self.stream([f"<{call.seed}>{self.text(prefix)}" for prefix in prefixes], call)


def seeded(prompt: str, index: int) -> Reply | str:
    return maze(prompt, index + int(prompt[1 : prompt.index(">")]))


def test_the_conversation_of_the_cases_is_the_scripts() -> None:
    assert isinstance(CHAT, Chat)
    assert grown("user: What is 6 * 7?a\n\n") == "a\n\n"
