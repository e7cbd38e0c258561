"""Searches over steps that a rule ends: what is decided, what is aborted, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engines.scripted import Reply, Script, ScriptedEngine
from strategies import steps
from strategies.accounting import Budget
from strategies.beam_search import BeamSearch
from strategies.errors import EngineUnavailable, InvalidParameter
from strategies.mcts import MCTS
from strategies.particle_filter import ParticleFilter
from strategies.run import Outcome
from strategies.select import by_score, by_vote, score
from strategies.session import Session, Strategy
from strategies.stopping import Adaptive, AnyOf, Never, Stop, Verified, Window, check_search, decide_search
from strategies.types import Batch, Call, Candidate, Decision, Ids, Scorer, ScorerContext
from tests.strategies.support import candidate, engine, finished, gate, grown, says, session, turn

SEARCHES: dict[str, Strategy] = {
    "beam_search": BeamSearch(beams=8, width=4, max_steps=6),
    "weighted": BeamSearch(beams=8, width=4, max_steps=6, select="weighted_vote"),
    "dvts": BeamSearch(beams=8, width=4, trees=2, max_steps=6),
    "lookahead": BeamSearch(beams=4, width=2, lookahead=2, max_steps=6),
    "particle_filter": ParticleFilter(particles=8, max_steps=6),
    "importance": ParticleFilter(particles=8, max_steps=6, threshold=0.0, select="weighted_vote"),
    "mcts": MCTS(iterations=8, width=3, wave=3, max_steps=6),
    "rollouts": MCTS(iterations=6, width=3, wave=2, max_steps=6, value="rollout"),
}
every_search = pytest.mark.parametrize("strategy", SEARCHES.values(), ids=SEARCHES)
NONE = Never()


def ruled(strategy: Any, stop: Stop, **more: Any) -> Strategy:
    found: Strategy = replace(strategy, stop=stop, **more)
    return found


def number(text: str) -> int:
    return blake2b(text.encode(), digest_size=2).digest()[0]


@dataclass(slots=True)
class Shuffled(ScriptedEngine):
    """Its branches gain a word at a time, in an order that `random` chooses, and the script is shown the seed."""

    random: Random = field(default_factory=lambda: Random(0))

    def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        self.calls.append((prefixes, call))
        return self.stream([f"<{call.seed}>{self.text(prefix)}" for prefix in prefixes], call)

    async def stream(self, prompts: Sequence[str], call: Call) -> AsyncGenerator[Batch]:
        whole = [batch async for batch in ScriptedEngine.stream(self, prompts, replace(call, each_token=True))]
        self.generated -= sum(len(delta.ids) for batch in whole for delta in batch.deltas)
        left = {i: [d for batch in whole for d in batch.deltas if d.index == i] for i in range(call.n)}
        self.open_streams += 1
        prompt: int | None = 5
        try:
            while left:
                for _ in range(self.random.randrange(3)):
                    await asyncio.sleep(0)
                i = self.random.choice([*left])
                delta = left[i].pop(0)
                if not left[i]:
                    del left[i]
                self.generated += len(delta.ids)
                yield Batch((delta,), prompt, 0)
                prompt = None
        finally:
            self.open_streams -= 1


def policy(prompt: str, index: int) -> str:
    """Steps of four kinds, after each of which, the likelier the more there are, comes one of three answers."""
    said = ""
    while True:
        kind = number(f"{prompt}{said}{index}")
        if kind % 4 < (grown(prompt) + said).count("\n\n"):
            return said + "So it is" + " indeed" * (kind % 7) + f" {kind % 3}."
        said += f"Step of kind {kind % 4}" + " and" * (kind % 5) + ".\n\n"


@dataclass(frozen=True, slots=True)
class Opinion(Scorer):
    """A whim in steps of a quarter, or none at all. It charges nothing."""

    salt: int = 0
    stepwise: bool = True
    aggregate: Any = "min"

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float | None, ...]]:
        await asyncio.sleep(0)
        return [tuple(self.whim(text) for text in candidate.texts) for candidate in candidates]

    def whim(self, text: str) -> float | None:
        return (0.25, 0.5, 0.75, 1.0, 1.0, 1.0, None)[number(f"{self.salt} {text}") % 7]


@dataclass(frozen=True, slots=True)
class Right(Scorer):
    """1 for a path that has a star at its end, and otherwise this. `shown` keeps what it was shown."""

    other: float = 0.5
    shown: list[list[str]] = field(default_factory=list)

    def tokens(self, judgements: int) -> int:
        return 0

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        self.shown.append([candidate.text for candidate in candidates])
        return [(1.0 if candidate.text.endswith("*") else self.other,) for candidate in candidates]


def shuffled(strategy: Strategy, order: int, scorer: Scorer, script: Script = policy, **more: Any) -> Session:
    on = replace(session(script, scorer=scorer, **more), engine=Shuffled(script, random=Random(order)))
    on.aggregate = "min"
    return on


def outline(outcome: Outcome) -> list[Any]:
    found = outcome.round
    shown = [
        [(c.id, c.parent, c.text, c.answer, c.group, c.score, c.scores) for c in paths]
        for paths in (found.candidates, found.ranked)
    ]
    return [*shown, found.votes, found.converged, found.decision, outcome.stopped_by]


def counted(on: Session) -> None:
    assert on.generated == engine(on).generated
    assert engine(on).open_streams == on.progress.live == 0
    assert on.saved == 0


# The first verified path


def with_answers(prompt: str, index: int) -> str:
    """Two steps, and then answers, every third a right one; the others take long."""
    path = grown(prompt)
    right = (index + int(path[5:6] or 0)) % 3 == 0
    return f"Step {index}.\n\n" * (2 - path.count("\n\n")) + ("It is 42. *" if right else "Well, " * 40 + "it is 41.")


def without_one(prompt: str, index: int) -> str:
    return with_answers(prompt, index).replace("42. *", "42.")


@every_search
async def test_the_first_verified_path_ends_a_search(strategy: Strategy) -> None:
    spent = {}
    for stop in (Never(), Verified()):
        on = session(with_answers, scorer=Right(), pause=turn, interval=1)
        outcome, rounds = await finished(ruled(strategy, stop), on)
        counted(on)
        spent[stop.rule] = on.generated
        assert outcome.round.ranked[0].answer == "42"
        assert (rounds[-1], len(rounds)) == (outcome.round, on.progress.rounds)
        assert outcome.stopped_by == ("converged" if stop == Verified() else "complete")
        assert outcome.round.converged == (stop == Verified())
        if stop == Verified():
            assert outcome.round.decision == Decision("verified", 1, 1.0)
            assert [path.text.endswith("*") for path in outcome.round.candidates] == [True]
    assert spent["verified"] < spent["none"]


@every_search
@pytest.mark.parametrize("stop", [Verified(), Verified(score=0.5, count=3)], ids=["score", "count"])
async def test_a_search_whose_answers_are_not_verified_goes_on_as_without_a_rule(
    strategy: Strategy, stop: Stop
) -> None:
    def differing(prompt: str, index: int) -> str:
        return f"{policy(prompt, index)[:-2]}{int(blake2b(f'{prompt}{index}'.encode()).hexdigest()[:9], 16)}."

    scorer = Right(other=0.4) if stop == Verified() else Right()
    found = [
        outline((await finished(ruled(strategy, s), shuffled(strategy, 1, scorer, differing)))[0]) for s in (NONE, stop)
    ]
    assert found[0] == found[1]


async def test_what_still_runs_is_aborted_within_a_round_and_counted() -> None:
    script = says("It is 42. *", "Well, " * 500, "Well, " * 500, "Well, " * 500)
    on = session(script, scorer=(scorer := Right()), pause=turn, interval=1)
    outcome, _ = await finished(BeamSearch(beams=4, width=4, stop=Verified()), on)
    assert outcome.round.decision == Decision("verified", 1, 1.0)
    counted(on)
    assert on.generated < 40
    assert on.cancelled == on.generated - 4
    assert (on.unused, scorer.shown) == (3, [["It is 42. *"]])
    assert [path.text for path in on.tree.values()] == ["It is 42. *"]


async def test_a_path_waits_for_those_before_it() -> None:
    """The second has finished long before the first, which counts before it; the third is aborted."""
    script = says("Well, " * 50 + "it is 41.", "It is 42. *", "Well, " * 500, "It is 40. *")
    on = session(script, scorer=Right(), pause=turn, interval=1)
    outcome, _ = await finished(ParticleFilter(particles=4, stop=Verified()), on)
    assert outcome.round.decision == Decision("verified", 2, 1.0)
    assert [path.answer for path in outcome.round.candidates] == ["41", "42"]
    counted(on)
    assert on.unused == 2
    assert on.cancelled < 60


async def test_rollouts_end_a_search_too() -> None:
    def script(prompt: str, index: int) -> Reply | str:
        path = grown(prompt)
        if not path:
            return f"Step {index}.\n\n"
        return "It is 42. *" if "Step 1" in path else "It is 41." if "Step 0" in path else "Well, " * 500

    on = session(script, scorer=Right(), pause=turn, interval=1)
    outcome, _ = await finished(MCTS(iterations=4, width=3, value="rollout", stop=Verified(), select="best"), on)
    assert outcome.round.decision == Decision("verified", 2, 1.0)
    assert (outcome.round.ranked[0].answer, on.unused) == ("42", 1)
    counted(on)
    assert on.cancelled < 20


@pytest.mark.parametrize("value", ["scorer", "rollout"])
async def test_equal_siblings_are_one_in_a_tree(value: Any) -> None:
    """Of two equal answers and one of the same meaning, the last makes two."""
    script = says("It is 42. *", "It is 42. *", "I say 42. *", "Well, " * 300)
    on = session(script, scorer=Right(), pause=turn, interval=1)
    outcome, _ = await finished(MCTS(iterations=9, width=4, value=value, stop=Verified(count=2)), on)
    assert outcome.round.decision == Decision("verified", 2, 1.0)
    assert [path.id for path in outcome.round.candidates] == [0, 2]
    assert on.unused == 1


@every_search
async def test_a_path_that_could_not_be_scored_is_not_verified_by_its_parents_score(strategy: Strategy) -> None:
    """The scorer likes every step, and fails when it is shown an answer."""

    @dataclass(frozen=True, slots=True)
    class Failing(Right):
        async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
            if any(candidate.complete for candidate in candidates):
                raise EngineUnavailable("gone")
            return [(1.0,)] * len(candidates)

    on = shuffled(strategy, 3, Failing())
    outcome, _ = await finished(ruled(strategy, Verified()), on)
    assert any(path.complete and path.score == 1.0 for path in outcome.round.candidates) or strategy.type == "mcts"
    assert outcome.round.decision is None
    assert outcome.stopped_by == "complete"
    assert "gone" in on.failures
    counted(on)


# Budgets, leaving


@every_search
@pytest.mark.parametrize("tokens", [1, 8, 20, 60])
async def test_a_budget_that_ends_first_ends_the_search(strategy: Strategy, tokens: int) -> None:
    on = session(without_one, scorer=Right(), pause=turn, interval=1, budget=Budget(tokens=tokens))
    outcome, _ = await finished(ruled(strategy, Verified()), on)
    assert outcome.stopped_by == "tokens"
    assert (outcome.round.decision, outcome.round.converged) == (None, False)
    counted(on)


@pytest.mark.usefixtures("leaping")
@every_search
async def test_the_deadline_ends_a_search_that_is_not_decided(strategy: Strategy) -> None:
    on = session(with_answers, scorer=Right(), budget=Budget(seconds=0.1), pause=gate(4), interval=1)
    outcome, _ = await finished(ruled(strategy, Verified()), on)
    assert outcome.stopped_by == "seconds"
    assert outcome.round.decision is None
    counted(on)


@every_search
@pytest.mark.parametrize("events", [0, 9, 30])
async def test_cancelling_closes_all_streams(strategy: Strategy, events: int) -> None:
    on = session(without_one, scorer=Right(), pause=gate(events), interval=1)
    task = asyncio.create_task(finished(ruled(strategy, Verified()), on))
    for _ in range(300):
        await asyncio.sleep(0)
    assert engine(on).open_streams > 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    counted(on)


# Against the search without a rule


RULES = st.builds(Verified, score=st.sampled_from([0.5, 0.75, 1.0]), count=st.integers(1, 3))
NEVER_VERIFIED = Verified(score=1.0, count=4)


@every_search
@settings(max_examples=25)
@given(rule=RULES, orders=st.tuples(st.integers(), st.integers()), salt=st.integers(0, 99))
def test_the_order_of_arrival_is_of_no_account(
    strategy: Strategy, rule: Verified, orders: tuple[int, int], salt: int
) -> None:
    def found(order: int) -> list[Any]:
        on = shuffled(strategy, order, Opinion(salt))
        outcome, _ = asyncio.run(finished(ruled(strategy, rule), on))
        counted(on)
        return outline(outcome)

    assert found(orders[0]) == found(orders[1])


@every_search
@settings(max_examples=25)
@given(rule=RULES, salt=st.integers(0, 99))
def test_a_verified_answer_is_the_one_that_is_returned(strategy: Strategy, rule: Verified, salt: int) -> None:
    on = shuffled(strategy, 0, Opinion(salt))
    outcome, _ = asyncio.run(finished(ruled(strategy, rule), on))
    decision = outcome.round.decision
    assert (decision is None) == (outcome.stopped_by == "complete")
    if decision and decision.rule == "verified":
        answer = outcome.round.ranked[0].answer
        good = [
            p for p in outcome.round.candidates if p.complete and p.answer == answer and (p.score or 0) >= rule.score
        ]
        scores = sorted({path.text: path.score or 0 for path in good}.values(), reverse=True)
        assert decision.confidence == scores[rule.count - 1]
        assert decision.samples == sum(path.complete for path in outcome.round.candidates)


WEIGHTED: dict[str, Strategy] = {
    "beam_search": BeamSearch(beams=24, width=2, trees=6, max_steps=4, select="weighted_vote"),
    "particle_filter": ParticleFilter(particles=12, max_steps=5, threshold=0.0, select="weighted_vote"),
    "mcts": MCTS(iterations=8, width=3, wave=1, max_steps=4, value="rollout"),
}


def agreeing(prompt: str, index: int) -> str:
    """As the policy, with one answer for most."""
    said = policy(prompt, index)
    return said if number(prompt + said) % 8 == 0 else said[:-2] + "7."


@pytest.mark.parametrize("strategy", WEIGHTED.values(), ids=WEIGHTED)
def test_a_settled_vote_is_that_of_the_whole_search(strategy: Strategy) -> None:
    settled = 0
    for salt in range(30):
        whole, ended = (
            asyncio.run(finished(ruled(strategy, stop), shuffled(strategy, salt, Opinion(salt), agreeing)))[0]
            for stop in (NONE, Verified(score=1.0, count=12))
        )
        if (decision := ended.round.decision) is not None and decision.rule == "majority":
            settled += 1
            assert (decision.confidence, ended.stopped_by) == (1.0, "converged")
            assert ended.round.ranked[0].answer == whole.round.ranked[0].answer
            assert len(ended.round.candidates) < len(whole.round.candidates)
    assert settled


@every_search
def test_no_more_paths_finish_than_may(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[tuple[int, int]] = []

    async def recorded(session: Session, done: Sequence[Candidate], *more: Any) -> Any:
        known.append((len(done), more[-1]))
        return await steps.so_far(session, done, *more)

    monkeypatch.setattr(f"strategies.{strategy.type}.so_far", recorded)
    for salt in range(20):
        known.clear()
        outcome, _ = asyncio.run(finished(strategy, shuffled(strategy, salt, Opinion(salt))))
        assert known
        assert all(len(outcome.round.candidates) <= so_far + left for so_far, left in known)


def test_a_vote_is_never_settled_where_finished_particles_may_be_lost() -> None:
    """Resampling takes two that have finished for the sake of two that go on."""
    population = [candidate(i, "1", 0, score=0.6) for i in range(2)]
    population += [candidate(i, finish_reason="step", score=0.99) for i in range(2, 4)]
    strategy = ParticleFilter(particles=4, threshold=1.0, select="weighted_vote", stop=Verified())
    kept = strategy.resample(session(says("")), population, Random(1))
    assert all(particle.open for particle in kept)
    assert strategy.may_finish(population) == 4
    assert replace(strategy, threshold=0.0).may_finish(population) == 2


# Rules


def paths(*said: tuple[str, float | None]) -> list[Candidate]:
    """Finished paths, whose answers are their first letters."""
    return [
        candidate(i, text[0], ord(text[0]), text=text, score=score, scores=(score,))
        for i, (text, score) in enumerate(said)
    ]


def decided(stop: Stop, left: int, *said: tuple[str, float | None], weighted: bool = False) -> Decision | None:
    found = paths(*said)
    ranked = by_vote(found, weight=score) if weighted else by_score(found)
    return decide_search(stop, ranked, {path.id for path in found if path.text != "unscored"}, left, weighted=weighted)


@pytest.mark.parametrize(
    ("stop", "said", "expected"),
    [
        (Verified(), [("a", 0.9)], None),
        (Verified(), [("a", None)], None),
        (Verified(), [("a", 0.9), ("b", 1.0)], Decision("verified", 2, 1.0)),
        (Verified(score=0.8), [("a", 0.9)], Decision("verified", 1, 0.9)),
        (Verified(count=2), [("a", 1.0), ("b", 1.0)], None),
        (Verified(count=2), [("a", 1.0), ("a", 1.0)], None),  # clones, or the same twice
        (Verified(count=2), [("a", 1.0), ("a!", 1.0)], Decision("verified", 2, 1.0)),
        (Verified(score=0.5, count=2), [("a", 0.6), ("a!", 0.7), ("b", 0.9)], None),  # b is chosen
        (Verified(), [("unscored", 1.0)], None),
        (
            AnyOf(any=(Verified(), Verified(score=0.8, count=2))),
            [("a", 0.8), ("a!", 0.9)],
            Decision("verified", 2, 0.8),
        ),
        (Never(), [("a", 1.0)], None),
    ],
)
def test_what_verifies_an_answer(stop: Stop, said: list[tuple[str, float | None]], expected: Decision | None) -> None:
    assert decided(stop, 9, *said) == expected
    assert decided(stop, 0, *said) is None, "a search that has ended is not ended by a rule"


@pytest.mark.parametrize(
    ("left", "said", "settled"),
    [
        (1, [("a", 0.9), ("a", 0.9), ("b", 0.7)], True),
        (1, [("a", 0.9), ("a", 0.9), ("b", 0.8)], False),  # b may draw level
        (2, [("a", 0.9), ("a", 0.9)], False),  # c may have 2
        (2, [("a", 0.9), ("a", 0.9), ("a", None)], True),  # no opinion weighs a half
    ],
)
def test_a_weighted_vote_is_settled_by_what_the_paths_to_come_weigh_at_most(
    left: int, said: list[tuple[str, float | None]], settled: bool
) -> None:
    assert decided(Verified(), left, *said, weighted=True) == (
        Decision("majority", len(said), 1.0) if settled else None
    )
    assert decided(Verified(), left, *said) is None


@pytest.mark.parametrize(
    ("strategy", "more", "param"),
    [
        (BeamSearch, {"stop": Window()}, "strategy.stop"),
        (ParticleFilter, {"stop": Adaptive()}, "strategy.stop"),
        (MCTS, {"stop": AnyOf(any=(Verified(), Adaptive()))}, "strategy.stop.any[1]"),
        (BeamSearch, {"beams": 8, "trees": 2, "stop": Verified(count=15)}, "strategy.stop.count"),
        (BeamSearch, {"beams": 8, "max_steps": 1, "stop": Verified(count=9)}, "strategy.stop.count"),
        (ParticleFilter, {"particles": 8, "stop": Verified(count=9)}, "strategy.stop.count"),
        (MCTS, {"iterations": 2, "width": 4, "stop": Verified(count=9)}, "strategy.stop.count"),
    ],
)
def test_what_is_no_rule_of_a_search_is_refused_by_its_path(strategy: Any, more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        strategy(**more)
    assert refused.value.param == param


def test_as_many_verified_paths_may_be_asked_for_as_may_finish() -> None:
    assert BeamSearch(beams=8, trees=2, stop=Verified(count=14)).stop == Verified(count=14)
    check_search(Verified(count=4), 4)


@dataclass(frozen=True, slots=True)
class Compared(Right):
    comparative: bool = True


@every_search
def test_a_scorer_that_compares_all_samples_takes_no_rule(strategy: Strategy) -> None:
    strategy.plan(1, 10, Compared())
    with pytest.raises(InvalidParameter) as refused:
        ruled(strategy, Verified()).plan(1, 10, Compared())
    assert refused.value.param == "strategy.stop"


async def test_progress_tells_the_votes_under_a_rule_only() -> None:
    for stop, votes in ((NONE, None), (Verified(), (1,))):
        on = session(with_answers, scorer=Right(), pause=turn, interval=1)
        await finished(ruled(SEARCHES["beam_search"], stop), on)
        assert (on.progress.votes, on.progress.confidence) == (votes, None)
