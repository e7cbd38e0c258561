"""Sampling in waves until a rule says stop (strategies/stopping.py).

Sample i has the same seed whatever the sizes of the waves: vLLM gives sample i of a request the seed + i, so that each
wave has the seed of its first sample. What is decided depends on the samples in the order in which they were asked for
and on no other: those behind the one that decides neither vote nor are shown, whether they had finished or were
aborted, and are counted as what they cost. Only a budget that ends first makes the order of arrival matter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from strategies.errors import BudgetSpent, EngineError
from strategies.select import Choice, by_selection, classes
from strategies.session import Doubt, Session
from strategies.stopping import Consensus, Stop, Waves, check_scorer, confidence, decide
from strategies.types import Aggregate, Call, Candidate, Decision, Round


@dataclass(slots=True, eq=False)
class Poll:
    """The samples of one run so far, in the order in which they were asked for, and what they decided.

    `unscored`: scores are missing, so that the plain vote stands.
    """

    session: Session
    stop: Stop | Consensus
    most: int
    selection: Choice
    aggregate: Aggregate | None = None
    seen: list[Candidate] = field(default_factory=list)
    decision: Decision | None = None
    unscored: bool = False

    async def take(self, fresh: Sequence[Candidate]) -> None:
        """Add the next samples one by one, up to the one that decides; all of them where the budget has ended.

        One by one, because whether two answers are equal may come out only with a third that is equal to both.
        """
        scored = await self.scored(fresh)
        for i, candidate in enumerate(scored):
            if self.session.stopped is not None:
                self.seen = await self.session.read([*self.seen, *scored[i:]])
                return
            self.seen = await self.session.read_next(self.seen, candidate)
            if self.session.stopped is None:
                self.decision = decide(self.stop, self.seen, self.most, self.selection)
            if self.decision is not None:
                return

    async def scored(self, fresh: Sequence[Candidate]) -> list[Candidate]:
        """The samples with their scores, all judged at once; without where the budget does not last for them."""
        if self.session.scorer is None:
            return list(fresh)
        try:
            return await self.session.score(fresh, self.aggregate)
        except BudgetSpent:
            self.unscored = True
            return list(fresh)
        except EngineError:
            self.unscored = True
            self.seen = await self.session.read([*self.seen, *fresh])
            raise

    def round(self) -> Round:
        """What is known now, which is told to those who wait, too."""
        found = by_selection(self.seen, "majority" if self.unscored else self.selection)
        self.session.progress.tell(found.votes)
        self.session.progress.confidence = confidence(classes(self.seen))
        return replace(found, converged=self.decision is not None, decision=self.decision)


async def sample_until_decided(poll: Poll, waves: Waves, call: Call) -> AsyncGenerator[Round]:
    """Sample at most `poll.most` answers like `call`, and yield a round after every wave; the last one is the result.

    While a wave runs, its tokens of scoring are reserved and then spent, so that the budget may end it a little early.
    """
    session = poll.session
    check_scorer(poll.stop, session.scorer)
    asked = told = 0
    try:
        for size in waves.sizes(poll.most):
            await draw(poll, call.part(asked, size))
            asked, told = asked + size, len(poll.seen)
            if poll.decision is not None:
                session.saved, session.unused = poll.most - asked, max(asked - told - session.failed, 0)
            yield poll.round()
            if poll.decision is not None or session.stopped is not None:
                return
    except EngineError:
        if len(poll.seen) > told:
            yield poll.round()  # what stands when nobody can score it
        raise


async def draw(poll: Poll, wave: Call, doubts: Sequence[Doubt] = ()) -> None:
    """Sample one wave, as far as it takes to decide; the rest of it is aborted, and so is a sample that is in doubt."""
    reserve = poll.session.scorer.tokens(wave.n) if poll.session.scorer else 0
    async with aclosing(poll.session.sample_in_order(wave, reserve, doubts)) as arriving:
        async for fresh in arriving:
            await poll.take(fresh)
            if poll.decision is not None:
                return
